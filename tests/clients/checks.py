"""What every client library has to show here: one word per check, the same for all of them.

A program gets the words as arguments, in this order, and says for each what became of it, in TAP:

    ok - pub-sub
    not ok - wildcards - what was found, and what was expected

A line that begins with `#` is for people; `# restart` asks for a restart of the server, which one line on the program's
standard input answers. Everything else a program needs to know stands in its environment:

    PLAIN_URL             a server without authentication: every check but the last ones
    GENEROUS_URL         the same one, by a way on which INFO promises a larger max_payload than the server takes
    TLS_URL TLS_CA       one that wants TLS, and the certificate to trust
    MUTUAL_URL TLS_CERT  one that wants a client's certificate, and one with its key
    USERS_URL PASSWORD NKEY NKEY_FILE
                         one that knows the user "agent" by this password, and this nkey, whose seed is in the file
    TOKEN_URL TOKEN      one that wants this token

Subjects are a program's own random ones, so that a check can be run again and beside others.
"""

CORE = {
    # connect options, each with a message there and back
    "name": "a client with a name",
    "verbose": "+OK after everything",
    "pedantic": "subjects are looked at closely",
    "no-echo": "one's own messages do not come back, those of others do",
    "inbox-prefix": "answers come to an inbox under the prefix",
    "connect-timeout": "a server that says nothing is given up in time",
    "request-timeout": "so is a request that nobody answers",
    "no-responders": "a request to nobody fails at once, with the library's own error",
    "client-pings": "the library's own pings are answered",
    # messages
    "pub-sub": "1,000 messages in order",
    "wildcards": "* and > match what they should, and nothing else",
    "queue-group": "each message to one of three members, all of them to a plain subscription beside",
    "auto-unsubscribe": "over after the third of five messages",
    "request-one": "a request and its answer",
    "request-old-style": "an inbox of its own for each request: an answer, and nobody there",
    "request-many": "a request and three answers",
    "headers": "names keep their case, values their colons",
    "headers-empty": "a value may be empty",
    "headers-multi": "several values of one name, in order; a name in another case is another name",
    "binary-payload": "every byte, and what looks like a command",
    "empty-payload": "nothing, with headers and without",
    "large-payload": "1 MiB, three times",
    "max-payload-client": "the library refuses more than INFO allows, and goes on",
    "max-payload-server": "the server refuses it by name and closes; the library connects again",
    # the life of a connection
    "flush": "what was published before is there after",
    "drain-subscription": "what is on the way is handled, then no more",
    "drain-connection": "the same for all of them, then the connection is closed",
    "reconnect": "after a restart of the server: subscriptions, queue members and what is left of a limit",
    "thousand-connections": "1,000 clients, each gets the message",
}

MAILBOXES = {
    "mailbox-subscribe": "stored messages in the order of their priority, with their headers",
    "mailbox-live-and-drain": "what arrives later; after a drain the mail is still there",
    "mailbox-old-style": "the broker answers requests of that kind too",
    "mailbox-queue-group": "each message to one of two members, the next member goes on",
    "mailbox-fetch-and-ack": "leased, acknowledged, waited for",
    "mailbox-acknowledge": "+WPI, -NAK, +TERM and +ACK, by what the library has for them, and a request with one",
    "mailbox-reply-address": "respond() sends into the mailbox that the sender named",
    "mailbox-refused-wildcard": "a permissions error names the subject, the connection lives",
    "mailbox-refused-publish": "the same for mail to nobody without a reply subject",
    "mailbox-dropped": "410 ends the subscription",
    "mailbox-broadcast": "plain pub/sub with wildcards",
    "mailbox-directory": "a public mailbox is listed",
    "mailbox-restart": "the mail and the subscription are there again after a restart",
}

WAYS_IN = {
    "tls": "1 MiB over TLS",
    "tls-untrusted": "a certificate that nobody vouches for is refused",
    "tls-client": "a client's certificate opens the door, no certificate does not",
    "user-password": "the right one",
    "wrong-password": "'Authorization Violation'",
    "nkey": "the challenge of INFO, signed",
    "token": "the right one; a wrong one is refused",
}

#: The server that a check needs, where it is not the plain one.
VARIANTS = {
    "tls": "tls",
    "tls-untrusted": "tls",
    "tls-client": "mutual",
    "user-password": "users",
    "wrong-password": "users",
    "nkey": "users",
    "token": "token",
}

#: Needs that are not met by a library, and why.
MISSING = {
    ("nats-py", "headers-multi"): "nats-py keeps one value per name",
    ("libnats", "headers-empty"): "libnats 3.4 takes the line after an empty value for its value",
}
