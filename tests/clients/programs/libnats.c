// The checks of tests/clients/checks.py with libnats. A check that fails jumps back to main().

#define _GNU_SOURCE // strcasestr

#include <nats/nats.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define AI "$mq9.AI."
#define MIB (1 << 20)
#define CLIENTS 1000
#define TEXT 512

typedef struct {
    natsConnection *nc;
    atomic_int disconnected, reconnected, closed, errors;
    char said[TEXT]; // by the server, at the first error or at the end
} Peer;

typedef struct {
    natsOptions *options;
    const char *url;
} Settings;

static Peer *peers[CLIENTS + 8];
static int opened;
static natsSubscription *subscriptions[CLIENTS + 64];
static int subscribed;
static jmp_buf back;
static char why[2048];

static _Noreturn void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    for (char *at = why; *at; at++)
        if (*at == '\n' || *at == '\r') *at = ' ';
    longjmp(back, 1);
}

#define HOLDS(condition)                                                  \
    do {                                                                  \
        if (!(condition)) fail("line %d: not %s", __LINE__, #condition); \
    } while (0)

#define OK(call)                                                                               \
    do {                                                                                       \
        natsStatus status_ = (call);                                                           \
        if (status_ != NATS_OK) fail("line %d: %s: %s", __LINE__, #call, natsStatus_GetText(status_)); \
    } while (0)

#define UNTIL(condition)                                                             \
    do {                                                                             \
        for (int tries_ = 0; !(condition) && tries_ < 2000; tries_++) nats_Sleep(5); \
        if (!(condition)) fail("line %d: waited in vain for %s", __LINE__, #condition); \
    } while (0)

static void same(const char *found, const char *expected) {
    if (strcmp(found, expected)) fail("found \"%.300s\", not \"%.300s\"", found, expected);
}

static const char *env(const char *name) {
    const char *value = getenv(name);
    if (!value) fail("%s is not set", name);
    return value;
}

// ---- connections ----

static void note(Peer *peer, natsConnection *nc) {
    const char *text = NULL;
    if (!peer->said[0] && natsConnection_GetLastError(nc, &text) != NATS_OK && text)
        snprintf(peer->said, sizeof peer->said, "%s", text);
}

static void on_error(natsConnection *nc, natsSubscription *sub, natsStatus error, void *closure) {
    (void)sub, (void)error;
    note(closure, nc);
    atomic_fetch_add(&((Peer *)closure)->errors, 1);
}

static void on_disconnected(natsConnection *nc, void *closure) {
    note(closure, nc);
    atomic_fetch_add(&((Peer *)closure)->disconnected, 1);
}

static void on_reconnected(natsConnection *nc, void *closure) {
    (void)nc;
    atomic_fetch_add(&((Peer *)closure)->reconnected, 1);
}

static void on_closed(natsConnection *nc, void *closure) {
    note(closure, nc);
    atomic_fetch_add(&((Peer *)closure)->closed, 1);
}

static Settings settings(const char *url) {
    Settings made = {.url = url};
    OK(natsOptions_Create(&made.options));
    OK(natsOptions_SetURL(made.options, url));
    OK(natsOptions_SetTimeout(made.options, 5000));
    OK(natsOptions_SetMaxReconnect(made.options, 200));
    OK(natsOptions_SetReconnectWait(made.options, 50));
    OK(natsOptions_SetReconnectJitter(made.options, 0, 0));
    return made;
}

static natsStatus try_connect(Settings with, Peer **peer) {
    // callbacks may come long after the end of a connection: its Peer is never freed
    Peer *made = calloc(1, sizeof *made);
    HOLDS(made);
    OK(natsOptions_SetErrorHandler(with.options, on_error, made));
    OK(natsOptions_SetDisconnectedCB(with.options, on_disconnected, made));
    OK(natsOptions_SetReconnectedCB(with.options, on_reconnected, made));
    OK(natsOptions_SetClosedCB(with.options, on_closed, made));
    natsStatus status = natsConnection_Connect(&made->nc, with.options);
    natsOptions_Destroy(with.options);
    if (status == NATS_OK) {
        peers[opened++] = *peer = made;
    }
    return status;
}

static Peer *connect_with(Settings with) {
    Peer *peer = NULL;
    OK(try_connect(with, &peer));
    return peer;
}

static Peer *connect_plain(void) { return connect_with(settings(env("PLAIN_URL"))); }

static void clean_up(void) {
    while (opened > 0) natsConnection_Destroy(peers[--opened]->nc);
    while (subscribed > 0) natsSubscription_Destroy(subscriptions[--subscribed]);
}

// ---- messages ----

static const char *fresh(void) {
    static char names[32][48];
    static unsigned next;
    static char *inbox;
    char *name = names[next++ % 32];
    if (natsInbox_Create((natsInbox **)&inbox) != NATS_OK) fail("no inbox");
    snprintf(name, sizeof names[0], "c.%s", strchr(inbox, '.') + 1);
    natsInbox_Destroy((natsInbox *)inbox);
    return name;
}

static natsSubscription *keep(natsSubscription *subscription) {
    subscriptions[subscribed++] = subscription;
    return subscription;
}

// A subscription that the server has seen.
static natsSubscription *listen_to(Peer *peer, const char *subject, const char *queue) {
    natsSubscription *made = NULL;
    if (queue)
        OK(natsConnection_QueueSubscribeSync(&made, peer->nc, subject, queue));
    else
        OK(natsConnection_SubscribeSync(&made, peer->nc, subject));
    keep(made);
    OK(natsConnection_Flush(peer->nc));
    return made;
}

static natsMsg *take(natsSubscription *subscription) {
    natsMsg *message = NULL;
    OK(natsSubscription_NextMsg(&message, subscription, 10000));
    return message;
}

// The payload of the next message; it holds until the next call.
static const char *take_text(natsSubscription *subscription) {
    static char text[TEXT];
    natsMsg *message = take(subscription);
    snprintf(text, sizeof text, "%.*s", natsMsg_GetDataLength(message), natsMsg_GetData(message));
    natsMsg_Destroy(message);
    return text;
}

static int waiting(Peer *peer, natsSubscription *subscription) {
    int messages = 0, bytes = 0;
    OK(natsConnection_Flush(peer->nc));
    OK(natsSubscription_GetPending(subscription, &messages, &bytes));
    return messages;
}

static void publish(Peer *peer, const char *subject, const char *text) {
    OK(natsConnection_PublishString(peer->nc, subject, text));
}

static void publish_numbers(Peer *peer, const char *subject, int count) {
    char text[16];
    for (int n = 0; n < count; n++) {
        snprintf(text, sizeof text, "%d", n);
        publish(peer, subject, text);
    }
    OK(natsConnection_Flush(peer->nc));
}

// Marks the numbers that come next on a subscription, each once.
static int take_numbers(natsSubscription *subscription, int count, char *seen) {
    for (int n = 0; n < count; n++) {
        int number = atoi(take_text(subscription));
        if (seen[number]++) fail("%d came twice", number);
    }
    return count;
}

static char last_reply[TEXT];

static void answer_upper(natsConnection *nc, natsSubscription *sub, natsMsg *message, void *closure) {
    char text[TEXT];
    int size = natsMsg_GetDataLength(message);
    (void)sub;
    snprintf(last_reply, sizeof last_reply, "%s", natsMsg_GetReply(message));
    if (closure) {
        natsConnection_PublishString(nc, natsMsg_GetReply(message), closure);
    } else {
        for (int n = 0; n < size; n++) text[n] = natsMsg_GetData(message)[n] & ~32;
        natsConnection_Publish(nc, natsMsg_GetReply(message), text, size);
    }
    natsMsg_Destroy(message);
}

static void answer(Peer *peer, const char *subject, const char *text) {
    natsSubscription *made = NULL;
    OK(natsConnection_Subscribe(&made, peer->nc, subject, answer_upper, (void *)text));
    keep(made);
    OK(natsConnection_Flush(peer->nc));
}

static void works(Peer *peer) {
    const char *subject = fresh();
    natsMsg *reply = NULL;
    answer(peer, subject, NULL);
    OK(natsConnection_RequestString(&reply, peer->nc, subject, "hello", 5000));
    same(natsMsg_GetData(reply), "HELLO");
    natsMsg_Destroy(reply);
    OK(natsSubscription_Unsubscribe(subscriptions[subscribed - 1]));
}

static void restart_server(void) {
    char line[16];
    printf("# restart\n");
    if (!fgets(line, sizeof line, stdin)) fail("nobody restarts the server");
}

// ---- connect options ----

static void name(void) {
    Settings with = settings(env("PLAIN_URL"));
    OK(natsOptions_SetName(with.options, "a client with a name"));
    works(connect_with(with));
}

static void verbose(void) {
    Settings with = settings(env("PLAIN_URL"));
    OK(natsOptions_SetVerbose(with.options, true));
    works(connect_with(with));
}

static void pedantic(void) {
    Settings with = settings(env("PLAIN_URL"));
    OK(natsOptions_SetPedantic(with.options, true));
    works(connect_with(with));
}

static void no_echo(void) {
    Settings with = settings(env("PLAIN_URL"));
    OK(natsOptions_SetNoEcho(with.options, true));
    Peer *quiet = connect_with(with), *other = connect_plain();
    const char *subject = fresh();
    natsSubscription *heard = listen_to(quiet, subject, NULL);
    publish(quiet, subject, "mine");
    OK(natsConnection_Flush(quiet->nc));
    publish(other, subject, "theirs");
    same(take_text(heard), "theirs");
    HOLDS(waiting(quiet, heard) == 0);
}

static void inbox_prefix(void) {
    Settings with = settings(env("PLAIN_URL"));
    OK(natsOptions_SetCustomInboxPrefix(with.options, "_INBOX_mine"));
    Peer *peer = connect_with(with);
    works(peer);
    if (strncmp(last_reply, "_INBOX_mine.", 12)) fail("the answer went to %s", last_reply);
}

static void connect_timeout(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    char url[64];
    int silent = socket(AF_INET, SOCK_STREAM, 0);
    HOLDS(bind(silent, (struct sockaddr *)&address, size) == 0 && listen(silent, 8) == 0);
    HOLDS(getsockname(silent, (struct sockaddr *)&address, &size) == 0);
    snprintf(url, sizeof url, "nats://127.0.0.1:%d", ntohs(address.sin_port));
    Settings with = settings(url);
    OK(natsOptions_SetTimeout(with.options, 200));
    Peer *peer = NULL;
    natsStatus status = try_connect(with, &peer);
    close(silent);
    if (status != NATS_TIMEOUT && status != NATS_NO_SERVER) fail("connecting gave %s", natsStatus_GetText(status));
}

static void request_timeout(void) {
    Peer *peer = connect_plain();
    const char *subject = fresh();
    natsMsg *reply = NULL;
    listen_to(peer, subject, NULL);
    HOLDS(natsConnection_RequestString(&reply, peer->nc, subject, "", 200) == NATS_TIMEOUT);
    works(peer);
}

static void no_responders(void) {
    Peer *peer = connect_plain();
    natsMsg *reply = NULL;
    HOLDS(natsConnection_RequestString(&reply, peer->nc, fresh(), "", 10000) == NATS_NO_RESPONDERS);
    works(peer);
}

static void client_pings(void) {
    Settings with = settings(env("PLAIN_URL"));
    OK(natsOptions_SetPingInterval(with.options, 50));
    OK(natsOptions_SetMaxPingsOut(with.options, 2));
    Peer *peer = connect_with(with);
    nats_Sleep(500);
    HOLDS(atomic_load(&peer->disconnected) == 0);
    works(peer);
}

// ---- messages ----

static void pub_sub(void) {
    Peer *publisher = connect_plain(), *subscriber = connect_plain();
    const char *subject = fresh();
    natsSubscription *heard = listen_to(subscriber, subject, NULL);
    publish_numbers(publisher, subject, 1000);
    for (int n = 0; n < 1000; n++)
        if (atoi(take_text(heard)) != n) fail("message %d is not the next one", n);
}

static void wildcards(void) {
    static const char *tails[] = {"a.c", "b.c", "a.b.c", "a", "x.y"};
    Peer *peer = connect_plain();
    const char *root = fresh();
    char subject[TEXT];
    natsSubscription *heard[3];
    for (int n = 0; n < 3; n++) {
        snprintf(subject, sizeof subject, "%s.%s", root, ((const char *[]){"*.c", "a.>", "*.*.*.*"})[n]);
        heard[n] = listen_to(peer, subject, NULL);
    }
    for (int n = 0; n < 5; n++) {
        snprintf(subject, sizeof subject, "%s.%s", root, tails[n]);
        publish(peer, subject, tails[n]);
    }
    HOLDS(waiting(peer, heard[0]) == 2);
    same(take_text(heard[0]), "a.c");
    same(take_text(heard[0]), "b.c");
    HOLDS(waiting(peer, heard[1]) == 2);
    same(take_text(heard[1]), "a.c");
    same(take_text(heard[1]), "a.b.c");
    HOLDS(waiting(peer, heard[2]) == 0);
}

static void queue_group(void) {
    Peer *members[3];
    natsSubscription *heard[3];
    const char *subject = fresh();
    char seen[300] = {0};
    int share[3] = {0};
    for (int n = 0; n < 3; n++) heard[n] = listen_to(members[n] = connect_plain(), subject, "workers");
    natsSubscription *everything = listen_to(members[0], subject, NULL);
    publish_numbers(members[0], subject, 300);
    for (int n = 0; n < 300; n++)
        if (atoi(take_text(everything)) != n) fail("message %d is not the next one", n);
    UNTIL(waiting(members[0], heard[0]) + waiting(members[1], heard[1]) + waiting(members[2], heard[2]) >= 300);
    for (int n = 0; n < 3; n++) share[n] = take_numbers(heard[n], waiting(members[n], heard[n]), seen);
    HOLDS(share[0] + share[1] + share[2] == 300);
    HOLDS(share[0] && share[1] && share[2]);
}

static void auto_unsubscribe(void) {
    Peer *peer = connect_plain();
    const char *subject = fresh();
    natsSubscription *heard = listen_to(peer, subject, NULL);
    natsMsg *more = NULL;
    OK(natsSubscription_AutoUnsubscribe(heard, 3));
    publish_numbers(peer, subject, 5);
    for (int n = 0; n < 3; n++) HOLDS(atoi(take_text(heard)) == n);
    HOLDS(natsSubscription_NextMsg(&more, heard, 100) != NATS_OK);
}

static void request_one(void) { works(connect_plain()); }

static Peer *connect_old_style(void) {
    Settings with = settings(env("PLAIN_URL"));
    OK(natsOptions_UseOldRequestStyle(with.options, true));
    return connect_with(with);
}

static void request_old_style(void) {
    Peer *peer = connect_old_style();
    natsMsg *reply = NULL;
    works(peer);
    HOLDS(natsConnection_RequestString(&reply, peer->nc, fresh(), "", 10000) == NATS_NO_RESPONDERS);
    works(peer);
}

static void request_many(void) {
    static const char *texts[] = {"0", "1", "2"};
    Peer *asker = connect_plain();
    const char *subject = fresh();
    char seen[3] = {0};
    natsInbox *inbox = NULL;
    for (int n = 0; n < 3; n++) answer(connect_plain(), subject, texts[n]);
    OK(natsInbox_Create(&inbox));
    natsSubscription *replies = listen_to(asker, inbox, NULL);
    OK(natsConnection_PublishRequestString(asker->nc, subject, inbox, "who is there?"));
    natsInbox_Destroy(inbox);
    take_numbers(replies, 3, seen);
}

static const char *header(natsMsg *message, const char *key) {
    const char *value = NULL;
    natsStatus status = natsMsgHeader_Get(message, key, &value);
    if (status != NATS_OK) fail("header %s: %s", key, natsStatus_GetText(status));
    return value;
}

static natsMsg *with_headers(const char *subject, const char *payload, const char *pairs[][2], int count) {
    natsMsg *made = NULL;
    OK(natsMsg_Create(&made, subject, NULL, payload, (int)strlen(payload)));
    for (int n = 0; n < count; n++) OK(natsMsgHeader_Add(made, pairs[n][0], pairs[n][1]));
    return made;
}

static void publish_headers(Peer *peer, const char *subject, const char *pairs[][2], int count) {
    natsMsg *made = with_headers(subject, "body", pairs, count);
    OK(natsConnection_PublishMsg(peer->nc, made));
    natsMsg_Destroy(made);
}

static void headers(void) {
    Peer *peer = connect_plain();
    const char *subject = fresh(), **keys = NULL;
    int count = 0;
    natsSubscription *heard = listen_to(peer, subject, NULL);
    publish_headers(peer, subject, (const char *[][2]){{"x-ODD-case", "kept"}, {"Colon", "a: b"}}, 2);
    natsMsg *message = take(heard);
    same(natsMsg_GetData(message), "body");
    same(header(message, "x-ODD-case"), "kept");
    same(header(message, "Colon"), "a: b");
    OK(natsMsgHeader_Keys(message, &keys, &count));
    HOLDS(count == 2);
    free(keys);
    natsMsg_Destroy(message);
}

static void headers_multi(void) {
    Peer *peer = connect_plain();
    const char *subject = fresh(), **values = NULL;
    int count = 0;
    natsSubscription *heard = listen_to(peer, subject, NULL);
    publish_headers(peer, subject, (const char *[][2]){{"Many", "one"}, {"Many", "two"}, {"many", "three"}}, 3);
    natsMsg *message = take(heard);
    OK(natsMsgHeader_Values(message, "Many", &values, &count));
    HOLDS(count == 2);
    same(values[0], "one");
    same(values[1], "two");
    free(values);
    same(header(message, "many"), "three");
    natsMsg_Destroy(message);
}

static char large[MIB + 1];

static void fill(void) {
    for (int n = 0; n < MIB + 1; n++) large[n] = (char)n;
}

static void binary_payload(void) {
    Peer *peer = connect_plain();
    const char *subject = fresh();
    char payload[264];
    natsSubscription *heard = listen_to(peer, subject, NULL);
    fill();
    memcpy(payload, large, 256);
    memcpy(payload + 256, "\r\nPING\r\n", 8);
    OK(natsConnection_Publish(peer->nc, subject, payload, sizeof payload));
    natsMsg *message = take(heard);
    HOLDS(natsMsg_GetDataLength(message) == sizeof payload);
    HOLDS(!memcmp(natsMsg_GetData(message), payload, sizeof payload));
    natsMsg_Destroy(message);
}

static void empty_payload(void) {
    Peer *peer = connect_plain();
    const char *subject = fresh(), *none = NULL;
    natsSubscription *heard = listen_to(peer, subject, NULL);
    OK(natsConnection_Publish(peer->nc, subject, NULL, 0));
    natsMsg *sent = with_headers(subject, "", (const char *[][2]){{"a", "b"}}, 1);
    OK(natsConnection_PublishMsg(peer->nc, sent));
    natsMsg_Destroy(sent);
    natsMsg *plain = take(heard), *headed = take(heard);
    HOLDS(natsMsg_GetDataLength(plain) == 0 && natsMsg_GetDataLength(headed) == 0);
    HOLDS(natsMsgHeader_Get(plain, "a", &none) == NATS_NOT_FOUND);
    same(header(headed, "a"), "b");
    natsMsg_Destroy(plain);
    natsMsg_Destroy(headed);
}

static void large_payload(void) {
    Peer *publisher = connect_plain(), *subscriber = connect_plain();
    const char *subject = fresh();
    natsSubscription *heard = listen_to(subscriber, subject, NULL);
    fill();
    for (int n = 0; n < 3; n++) OK(natsConnection_Publish(publisher->nc, subject, large, MIB));
    for (int n = 0; n < 3; n++) {
        natsMsg *message = take(heard);
        HOLDS(natsMsg_GetDataLength(message) == MIB);
        HOLDS(!memcmp(natsMsg_GetData(message), large, MIB));
        natsMsg_Destroy(message);
    }
}

static void max_payload_client(void) {
    Peer *peer = connect_plain();
    HOLDS(natsConnection_GetMaxPayload(peer->nc) == MIB);
    HOLDS(natsConnection_Publish(peer->nc, fresh(), large, MIB + 1) == NATS_MAX_PAYLOAD);
    works(peer);
}

static void max_payload_server(void) {
    Peer *peer = connect_with(settings(env("GENEROUS_URL")));
    natsStatus sent = natsConnection_Publish(peer->nc, fresh(), large, MIB + 1);
    // (a server may hang up before all of it is written)
    HOLDS(sent == NATS_OK || sent == NATS_IO_ERROR);
    UNTIL(atomic_load(&peer->closed) || atomic_load(&peer->reconnected));
    if (!strcasestr(peer->said, "maximum payload violation")) fail("the error is \"%s\"", peer->said);
    if (!atomic_load(&peer->closed)) works(peer);
}

// ---- the life of a connection ----

static void flush(void) {
    Peer *publisher = connect_plain(), *subscriber = connect_plain();
    const char *subject = fresh();
    natsSubscription *heard = listen_to(subscriber, subject, NULL);
    publish(publisher, subject, "x");
    OK(natsConnection_Flush(publisher->nc));
    HOLDS(waiting(subscriber, heard) == 1);
}

static atomic_int handled;

static void handle_slowly(natsConnection *nc, natsSubscription *sub, natsMsg *message, void *closure) {
    (void)nc, (void)sub, (void)closure;
    nats_Sleep(1);
    atomic_fetch_add(&handled, 1);
    natsMsg_Destroy(message);
}

static natsSubscription *handle(Peer *peer, const char *subject) {
    natsSubscription *made = NULL;
    atomic_store(&handled, 0);
    OK(natsConnection_Subscribe(&made, peer->nc, subject, handle_slowly, NULL));
    OK(natsConnection_Flush(peer->nc));
    return keep(made);
}

static void drain_subscription(void) {
    Peer *peer = connect_plain();
    const char *subject = fresh();
    natsSubscription *subscription = handle(peer, subject);
    publish_numbers(peer, subject, 50);
    OK(natsSubscription_Drain(subscription));
    OK(natsSubscription_WaitForDrainCompletion(subscription, 10000));
    publish(peer, subject, "too late");
    OK(natsConnection_Flush(peer->nc));
    HOLDS(atomic_load(&handled) == 50);
    works(peer);
}

static void drain_connection(void) {
    Peer *peer = connect_plain(), *other = connect_plain();
    const char *subject = fresh();
    handle(peer, subject);
    publish_numbers(other, subject, 50);
    OK(natsConnection_Flush(peer->nc));
    OK(natsConnection_Drain(peer->nc));
    UNTIL(atomic_load(&peer->closed));
    HOLDS(atomic_load(&handled) == 50);
}

static void reconnect(void) {
    Peer *peer = connect_plain(), *other = connect_plain();
    const char *subject = fresh();
    char all[TEXT], one[TEXT];
    snprintf(all, sizeof all, "%s.*", subject);
    snprintf(one, sizeof one, "%s.limited", subject);
    natsSubscription *plain = listen_to(peer, subject, NULL);
    natsSubscription *member = listen_to(peer, all, "workers");
    natsSubscription *limited = listen_to(peer, one, NULL);
    natsMsg *more = NULL;
    OK(natsSubscription_AutoUnsubscribe(limited, 2));
    publish(peer, one, "first");
    same(take_text(limited), "first");
    same(take_text(member), "first");
    restart_server();
    UNTIL(atomic_load(&peer->reconnected) && atomic_load(&other->reconnected));
    OK(natsConnection_Flush(peer->nc));
    publish(other, subject, "after");
    publish_numbers(other, one, 2);
    same(take_text(plain), "after");
    same(take_text(member), "0");
    same(take_text(member), "1");
    same(take_text(limited), "0");
    HOLDS(natsSubscription_NextMsg(&more, limited, 100) != NATS_OK);
    works(peer);
}

static void thousand_connections(void) {
    const char *subject = fresh();
    for (int n = 0; n < CLIENTS; n++) listen_to(connect_plain(), subject, NULL);
    publish(peers[0], subject, "to all");
    for (int n = 0; n < CLIENTS; n++) same(take_text(subscriptions[n]), "to all");
}

// ---- mailboxes ----

typedef struct {
    char mail_id[64], inbox[128], send_only[64], owner[64];
} Mailbox;

// The broker's answer to a request under $mq9.AI.; it holds until the next call.
static const char *ask_with(Peer *peer, natsMsg *request) {
    static char said[8192];
    natsMsg *reply = NULL;
    OK(natsConnection_RequestMsg(&reply, peer->nc, request, 10000));
    snprintf(said, sizeof said, "%.*s", natsMsg_GetDataLength(reply), natsMsg_GetData(reply));
    natsMsg_Destroy(reply);
    natsMsg_Destroy(request);
    return said;
}

static const char *ask(Peer *peer, const char *verb, const char *id, const char *body) {
    char subject[TEXT];
    snprintf(subject, sizeof subject, AI "%s%s", verb, id);
    return ask_with(peer, with_headers(subject, body, NULL, 0));
}

static void has(const char *said, const char *text) {
    if (!strstr(said, text)) fail("\"%.300s\" has no %s", said, text);
}

static void field(const char *said, const char *key, char *value, size_t size) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\":\"", key);
    const char *at = strstr(said, quoted);
    value[0] = 0;
    if (at) snprintf(value, size, "%.*s", (int)strcspn(at + strlen(quoted), "\""), at + strlen(quoted));
}

static Mailbox create(Peer *peer, const char *body) {
    Mailbox made;
    const char *said = ask(peer, "MAILBOX.CREATE", "", body);
    has(said, "\"error\":\"\"");
    field(said, "mail_id", made.mail_id, sizeof made.mail_id);
    field(said, "inbox", made.inbox, sizeof made.inbox);
    field(said, "send_only", made.send_only, sizeof made.send_only);
    field(said, "owner", made.owner, sizeof made.owner);
    return made;
}

static Mailbox create_private(Peer *peer) { return create(peer, "{\"ttl\":600}"); }

static void send_to(Peer *peer, const Mailbox *to, const char *payload) {
    has(ask(peer, "INBOX.", to->send_only, payload), "\"error\":\"\"");
}

static void mailbox_subscribe(void) {
    static const char *words[] = {"notify", "low", "normal", "high", "urgent", "critical"};
    static const char *order[] = {"critical", "high", "urgent", "normal", "notify", "low"};
    Peer *sender = connect_plain(), *reader = connect_plain();
    Mailbox box = create_private(reader);
    char subject[TEXT];
    snprintf(subject, sizeof subject, AI "INBOX.%s", box.send_only);
    for (int n = 0; n < 6; n++) {
        const char *pairs[][2] = {{"mq9-priority", words[n]}, {"x-Trace", "7: f"}};
        has(ask_with(sender, with_headers(subject, words[n], pairs, 2)), "\"error\":\"\"");
    }
    natsSubscription *backlog = listen_to(reader, box.inbox, NULL);
    for (int n = 0; n < 6; n++) {
        natsMsg *message = take(backlog);
        same(natsMsg_GetData(message), order[n]);
        same(header(message, "mq9-priority"), order[n]);
        same(header(message, "x-Trace"), "7: f");
        snprintf(subject, sizeof subject, "%s.%s", box.inbox, order[n]);
        same(natsMsg_GetSubject(message), subject);
        natsMsg_Destroy(message);
    }
}

static void mailbox_live_and_drain(void) {
    Peer *sender = connect_plain(), *reader = connect_plain();
    Mailbox box = create_private(reader);
    natsSubscription *subscription = handle(reader, box.inbox);
    for (int n = 0; n < 50; n++) send_to(sender, &box, "x");
    OK(natsConnection_Flush(reader->nc));
    OK(natsSubscription_Drain(subscription));
    OK(natsSubscription_WaitForDrainCompletion(subscription, 10000));
    HOLDS(atomic_load(&handled) == 50);
    send_to(sender, &box, "for the next reader");
    natsSubscription *again = listen_to(reader, box.inbox, NULL);
    for (int n = 0; n < 50; n++) same(take_text(again), "x");
    same(take_text(again), "for the next reader");
    HOLDS(atomic_load(&handled) == 50);
}

static void mailbox_old_style(void) {
    Peer *peer = connect_old_style();
    Mailbox box = create_private(peer);
    has(ask(peer, "INBOX.", box.send_only, "x"), "\"msg_id\":1");
}

static void mailbox_queue_group(void) {
    Peer *sender = connect_plain(), *members[2] = {connect_plain(), connect_plain()};
    Mailbox box = create_private(sender);
    natsSubscription *heard[2];
    char number[16], seen[40] = {0};
    for (int n = 0; n < 2; n++) heard[n] = listen_to(members[n], box.inbox, "workers");
    for (int n = 0; n < 40; n++) {
        snprintf(number, sizeof number, "%d", n);
        send_to(sender, &box, number);
    }
    UNTIL(waiting(members[0], heard[0]) + waiting(members[1], heard[1]) >= 40);
    int first = take_numbers(heard[0], waiting(members[0], heard[0]), seen);
    int second = take_numbers(heard[1], waiting(members[1], heard[1]), seen);
    HOLDS(first && second && first + second == 40);
    for (int n = 0; n < 2; n++) natsConnection_Close(members[n]->nc);
    natsSubscription *last = listen_to(connect_plain(), box.inbox, "workers");
    send_to(sender, &box, "new");
    same(take_text(last), "new");
}

static void mailbox_fetch_and_ack(void) {
    Peer *peer = connect_plain();
    Mailbox box = create_private(peer);
    const char *two = "{\"group_name\":\"g\",\"member\":\"a\",\"config\":{\"num_msgs\":2}}";
    send_to(peer, &box, "one");
    send_to(peer, &box, "\xff");
    send_to(peer, &box, "three");
    const char *said = ask(peer, "MSG.FETCH.", box.mail_id, two);
    has(said, "\"msg_id\":1,\"payload\":\"one\"");
    has(said, "\"encoding\":\"base64\"");
    said = ask(peer, "MSG.ACK.", box.mail_id, "{\"group_name\":\"g\",\"member\":\"a\",\"msg_ids\":[1,2]}");
    has(said, "\"error\":\"\"");
    said = ask(peer, "MSG.FETCH.", box.mail_id, two);
    has(said, "\"messages\":[{\"msg_id\":3,\"payload\":\"three\"");
    natsInbox *inbox = NULL;
    char subject[TEXT];
    OK(natsInbox_Create(&inbox));
    snprintf(subject, sizeof subject, AI "MSG.FETCH.%s", box.mail_id);
    natsSubscription *waited = listen_to(peer, inbox, NULL);
    OK(natsConnection_PublishRequestString(
        peer->nc, subject, inbox,
        "{\"group_name\":\"g\",\"member\":\"a\",\"ack\":[3],\"config\":{\"max_wait_ms\":5000}}"));
    natsInbox_Destroy(inbox);
    HOLDS(waiting(peer, waited) == 0);
    send_to(peer, &box, "four");
    has(take_text(waited), "\"messages\":[{\"msg_id\":4,\"payload\":\"four\"");
}

static void reply_with(Peer *peer, natsMsg *message, const char *word) {
    publish(peer, natsMsg_GetReply(message), word);
}

static void mailbox_acknowledge(void) {
    static const char *payloads[] = {"slow", "again", "hopeless", "asked"};
    Peer *peer = connect_plain();
    Mailbox dead = create_private(peer);
    natsMsg *given[4], *reply = NULL;
    char body[TEXT];
    snprintf(body, sizeof body, "{\"ack\":\"explicit\",\"retain\":\"ack\",\"dead_letter\":\"%s\"}", dead.send_only);
    Mailbox box = create(peer, body);
    for (int n = 0; n < 4; n++) send_to(peer, &box, payloads[n]);
    natsSubscription *member = listen_to(peer, box.inbox, "workers");
    for (int n = 0; n < 4; n++) same(natsMsg_GetData(given[n] = take(member)), payloads[n]);
    reply_with(peer, given[0], "+WPI");
    reply_with(peer, given[0], "+ACK");
    reply_with(peer, given[1], "-NAK");
    natsMsg *again = take(member);
    same(natsMsg_GetData(again), "again");
    same(header(again, "mq9-deliveries"), "2");
    reply_with(peer, again, "+ACK");
    reply_with(peer, given[2], "+TERM");
    OK(natsConnection_RequestString(&reply, peer->nc, natsMsg_GetReply(given[3]), "+ACK", 10000));
    same(natsMsg_GetData(reply), "{\"error\":\"\"}");
    natsMsg_Destroy(reply);
    natsMsg_Destroy(again);
    for (int n = 0; n < 4; n++) natsMsg_Destroy(given[n]);
    has(ask(peer, "MAILBOX.QUERY.", box.mail_id, ""), "\"unread\":0");
    const char *said = ask(peer, "MAILBOX.QUERY.", dead.mail_id, "");
    has(said, "\"payload\":\"hopeless\"");
    has(said, "\"mq9-dead-reason\":\"terminated\"");
    has(said, "\"unread\":1");
    HOLDS(waiting(peer, member) == 0);
    HOLDS(atomic_load(&peer->errors) == 0);
}

static void mailbox_reply_address(void) {
    Peer *asker = connect_plain(), *answerer = connect_plain();
    Mailbox question = create_private(answerer), answers = create_private(asker);
    char to[TEXT], reply[TEXT];
    snprintf(to, sizeof to, AI "INBOX.%s", question.send_only);
    snprintf(reply, sizeof reply, AI "INBOX.%s.urgent", answers.send_only);
    OK(natsConnection_PublishRequestString(asker->nc, to, reply, "how?"));
    natsMsg *message = take(listen_to(answerer, question.inbox, NULL));
    publish(answerer, natsMsg_GetReply(message), "so");
    natsMsg_Destroy(message);
    message = take(listen_to(asker, answers.inbox, NULL));
    same(natsMsg_GetData(message), "so");
    same(header(message, "mq9-priority"), "urgent");
    natsMsg_Destroy(message);
}

static void is_refused(Peer *peer, const char *said) {
    UNTIL(atomic_load(&peer->errors));
    if (!strcasestr(peer->said, said)) fail("the error is \"%s\"", peer->said);
    works(peer);
    HOLDS(atomic_load(&peer->disconnected) == 0);
}

static void mailbox_refused_wildcard(void) {
    Peer *peer = connect_plain();
    listen_to(peer, AI "MAILBOX.*", NULL);
    is_refused(peer, "permissions violation for subscription to \"" AI "MAILBOX.*\"");
}

static void mailbox_refused_publish(void) {
    Peer *peer = connect_plain();
    publish(peer, AI "INBOX.nobody-has-this", "lost?");
    is_refused(peer, "permissions violation for publish to \"" AI "INBOX.nobody-has-this\"");
}

static void mailbox_dropped(void) {
    Peer *peer = connect_plain();
    Mailbox box = create_private(peer);
    natsSubscription *subscription = listen_to(peer, box.inbox, NULL);
    has(ask(peer, "MAILBOX.DROP.", box.mail_id, ""), "\"error\":\"\"");
    natsMsg *last = take(subscription);
    HOLDS(natsMsg_GetDataLength(last) == 0);
    same(header(last, "Status"), "410");
    same(header(last, "Description"), "Mailbox Expired");
    natsMsg_Destroy(last);
    works(peer);
}

static void mailbox_broadcast(void) {
    Peer *one = connect_plain(), *two = connect_plain();
    char pattern[TEXT], subject[TEXT];
    const char *domain = strchr(fresh(), '.') + 1;
    snprintf(pattern, sizeof pattern, AI "BROADCAST.%s.*", domain);
    snprintf(subject, sizeof subject, AI "BROADCAST.%s.done", domain);
    natsSubscription *heard = listen_to(one, pattern, NULL);
    publish_headers(two, subject, (const char *[][2]){{"a", "b"}}, 1);
    natsMsg *message = take(heard);
    same(natsMsg_GetData(message), "body");
    same(natsMsg_GetSubject(message), subject);
    same(header(message, "a"), "b");
    natsMsg_Destroy(message);
}

static void mailbox_directory(void) {
    Peer *peer = connect_plain();
    char public[32], body[TEXT];
    unsigned number = (unsigned)(nats_NowInNanoSeconds() ^ getpid());
    snprintf(public, sizeof public, "c-%u", number);
    snprintf(body, sizeof body, "{\"name\":\"%s\",\"public\":true,\"desc\":\"for a check\"}", public);
    Mailbox box = create(peer, body);
    snprintf(body, sizeof body, "{\"prefix\":\"%s\"}", public);
    const char *said = ask(peer, "PUBLIC.LIST", "", body);
    has(said, public);
    has(said, "\"desc\":\"for a check\"");
    has(ask(peer, "MAILBOX.DROP.", box.owner, ""), "\"error\":\"\"");
}

static void mailbox_restart(void) {
    Peer *peer = connect_plain();
    Mailbox box = create_private(peer);
    send_to(peer, &box, "before");
    natsSubscription *subscription = listen_to(peer, box.inbox, NULL);
    same(take_text(subscription), "before");
    restart_server();
    UNTIL(atomic_load(&peer->reconnected));
    send_to(peer, &box, "after");
    same(take_text(subscription), "before");
    same(take_text(subscription), "after");
}

// ---- ways in ----

static void tls(void) {
    Settings with = settings(env("TLS_URL"));
    const char *subject = fresh();
    OK(natsOptions_SetSecure(with.options, true));
    OK(natsOptions_LoadCATrustedCertificates(with.options, env("TLS_CA")));
    Peer *peer = connect_with(with);
    works(peer);
    natsSubscription *heard = listen_to(peer, subject, NULL);
    OK(natsConnection_Publish(peer->nc, subject, large, MIB));
    natsMsg *message = take(heard);
    HOLDS(natsMsg_GetDataLength(message) == MIB);
    natsMsg_Destroy(message);
}

static void refuses(Settings with, natsStatus expected) {
    Peer *peer = NULL;
    natsStatus status = try_connect(with, &peer);
    if (status != expected) fail("connecting gave %s", natsStatus_GetText(status));
}

static void tls_untrusted(void) {
    Settings with = settings(env("TLS_URL"));
    OK(natsOptions_SetSecure(with.options, true));
    refuses(with, NATS_SSL_ERROR);
}

static void tls_client(void) {
    Peer *peer = NULL;
    Settings with = settings(env("MUTUAL_URL"));
    OK(natsOptions_SetSecure(with.options, true));
    OK(natsOptions_LoadCATrustedCertificates(with.options, env("TLS_CA")));
    HOLDS(try_connect(with, &peer) != NATS_OK);
    with = settings(env("MUTUAL_URL"));
    OK(natsOptions_SetSecure(with.options, true));
    OK(natsOptions_LoadCATrustedCertificates(with.options, env("TLS_CA")));
    OK(natsOptions_LoadCertificatesChain(with.options, env("TLS_CERT"), env("TLS_CERT")));
    works(connect_with(with));
}

static Settings as_user(const char *password) {
    Settings with = settings(env("USERS_URL"));
    OK(natsOptions_SetUserInfo(with.options, "agent", password));
    return with;
}

static void user_password(void) { works(connect_with(as_user(env("PASSWORD")))); }

static void wrong_password(void) { refuses(as_user("wrong"), NATS_CONNECTION_AUTH_FAILED); }

static void nkey(void) {
    Settings with = settings(env("USERS_URL"));
    OK(natsOptions_SetNKeyFromSeed(with.options, env("NKEY"), env("NKEY_FILE")));
    works(connect_with(with));
}

static void token(void) {
    Settings with = settings(env("TOKEN_URL"));
    OK(natsOptions_SetToken(with.options, env("TOKEN")));
    works(connect_with(with));
    with = settings(env("TOKEN_URL"));
    OK(natsOptions_SetToken(with.options, "wrong"));
    refuses(with, NATS_CONNECTION_AUTH_FAILED);
}

static const struct {
    const char *name;
    void (*run)(void);
} checks[] = {
    {"name", name},
    {"verbose", verbose},
    {"pedantic", pedantic},
    {"no-echo", no_echo},
    {"inbox-prefix", inbox_prefix},
    {"connect-timeout", connect_timeout},
    {"request-timeout", request_timeout},
    {"no-responders", no_responders},
    {"client-pings", client_pings},
    {"pub-sub", pub_sub},
    {"wildcards", wildcards},
    {"queue-group", queue_group},
    {"auto-unsubscribe", auto_unsubscribe},
    {"request-one", request_one},
    {"request-old-style", request_old_style},
    {"request-many", request_many},
    {"headers", headers},
    {"headers-multi", headers_multi},
    {"binary-payload", binary_payload},
    {"empty-payload", empty_payload},
    {"large-payload", large_payload},
    {"max-payload-client", max_payload_client},
    {"max-payload-server", max_payload_server},
    {"flush", flush},
    {"drain-subscription", drain_subscription},
    {"drain-connection", drain_connection},
    {"reconnect", reconnect},
    {"thousand-connections", thousand_connections},
    {"mailbox-subscribe", mailbox_subscribe},
    {"mailbox-live-and-drain", mailbox_live_and_drain},
    {"mailbox-old-style", mailbox_old_style},
    {"mailbox-queue-group", mailbox_queue_group},
    {"mailbox-fetch-and-ack", mailbox_fetch_and_ack},
    {"mailbox-acknowledge", mailbox_acknowledge},
    {"mailbox-reply-address", mailbox_reply_address},
    {"mailbox-refused-wildcard", mailbox_refused_wildcard},
    {"mailbox-refused-publish", mailbox_refused_publish},
    {"mailbox-dropped", mailbox_dropped},
    {"mailbox-broadcast", mailbox_broadcast},
    {"mailbox-directory", mailbox_directory},
    {"mailbox-restart", mailbox_restart},
    {"tls", tls},
    {"tls-untrusted", tls_untrusted},
    {"tls-client", tls_client},
    {"user-password", user_password},
    {"wrong-password", wrong_password},
    {"nkey", nkey},
    {"token", token},
};

static void run(const char *called) {
    if (setjmp(back)) {
        printf("not ok - %s - %s\n", called, why);
        return;
    }
    for (size_t n = 0; n < sizeof checks / sizeof *checks; n++)
        if (!strcmp(checks[n].name, called)) {
            checks[n].run();
            printf("ok - %s\n", called);
            return;
        }
    fail("there is no such check");
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("# libnats %s\n", nats_GetVersion());
    for (int n = 1; n < argc; n++) {
        run(argv[n]);
        clean_up();
    }
    nats_Close();
    return 0;
}
