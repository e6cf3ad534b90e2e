// The checks of tests/clients/checks.py with the client library for Go. A check that fails panics.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	ai      = "$mq9.AI."
	mib     = 1 << 20
	patient = 10 * time.Second
	longest = 30 * time.Second
)

var (
	opened   []*Peer
	allBytes = func() []byte {
		made := make([]byte, 256)
		for n := range made {
			made[n] = byte(n)
		}
		return made
	}()
	input = bufio.NewReader(os.Stdin)
)

// Peer is a connection, and what its handlers were told.
type Peer struct {
	*nats.Conn
	lock   sync.Mutex
	events []string
	errors []string
}

func (p *Peer) note(list *[]string, what string) {
	p.lock.Lock()
	defer p.lock.Unlock()
	*list = append(*list, what)
}

func (p *Peer) told(list *[]string) []string {
	p.lock.Lock()
	defer p.lock.Unlock()
	return append([]string{}, *list...)
}

func (p *Peer) has(event string) bool { return contains(p.told(&p.events), event) }

func tryConnect(url string, options ...nats.Option) (*Peer, error) {
	peer := &Peer{}
	event := func(name string) func(*nats.Conn) {
		return func(nc *nats.Conn) {
			if err := nc.LastError(); err != nil {
				peer.note(&peer.errors, err.Error())
			}
			peer.note(&peer.events, name)
		}
	}
	defaults := []nats.Option{
		nats.Timeout(5 * time.Second),
		nats.ReconnectWait(50 * time.Millisecond),
		nats.ReconnectJitter(0, 0),
		nats.MaxReconnects(200),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { peer.note(&peer.errors, err.Error()) }),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) { event("disconnected")(nc) }),
		nats.ReconnectHandler(event("reconnected")),
		nats.ClosedHandler(event("closed")),
	}
	nc, err := nats.Connect(url, append(defaults, options...)...)
	if err == nil {
		peer.Conn = nc
		opened = append(opened, peer)
	}
	return peer, err
}

func connectTo(url string, options ...nats.Option) *Peer {
	peer, err := tryConnect(url, options...)
	ok(err)
	return peer
}

func connect(options ...nats.Option) *Peer { return connectTo(os.Getenv("PLAIN_URL"), options...) }

func (p *Peer) flush() { ok(p.FlushTimeout(patient)) }

// listen gives a subscription that the server has seen.
func (p *Peer) listen(subject string, queue ...string) *nats.Subscription {
	subscription, err := p.QueueSubscribeSync(subject, strings.Join(queue, ""))
	ok(err)
	p.flush()
	return subscription
}

func (p *Peer) publish(subject string, payloads ...string) {
	for _, payload := range payloads {
		ok(p.Publish(subject, []byte(payload)))
	}
	p.flush()
}

func (p *Peer) answer(subject string, reply func(*nats.Msg) string) *nats.Subscription {
	subscription, err := p.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte(reply(m))) })
	ok(err)
	p.flush()
	return subscription
}

func (p *Peer) works() {
	subject := fresh()
	subscription := p.answer(subject, func(m *nats.Msg) string { return strings.ToUpper(string(m.Data)) })
	reply, err := p.Request(subject, []byte("hello"), 5*time.Second)
	ok(err)
	equal(string(reply.Data), "HELLO")
	ok(subscription.Unsubscribe())
}

// left is what is waiting after a round trip: for what must not have come.
func (p *Peer) left(subscription *nats.Subscription) []string {
	p.flush()
	count, _, err := subscription.Pending()
	ok(err)
	return take(subscription, count)
}

func next(subscription *nats.Subscription) *nats.Msg {
	message, err := subscription.NextMsg(patient)
	ok(err)
	return message
}

func take(subscription *nats.Subscription, count int) []string {
	found := []string{}
	for len(found) < count {
		found = append(found, string(next(subscription).Data))
	}
	return found
}

func fresh() string { return "go." + random() }

func random() string {
	var some [6]byte
	_, err := rand.Read(some[:])
	ok(err)
	return hex.EncodeToString(some[:])
}

func numbers(count int) []string {
	made := []string{}
	for n := 0; n < count; n++ {
		made = append(made, strconv.Itoa(n))
	}
	return made
}

func sorted(list []string) []string {
	made := append([]string{}, list...)
	sort.Strings(made)
	return made
}

func contains(list []string, text string) bool {
	for _, each := range list {
		if strings.Contains(strings.ToLower(each), strings.ToLower(text)) {
			return true
		}
	}
	return false
}

func ok(err error) {
	if err != nil {
		panic(err)
	}
}

func holds(what bool, otherwise ...any) {
	if !what {
		panic(fmt.Sprint(otherwise...))
	}
}

func equal(found, expected any) {
	holds(reflect.DeepEqual(found, expected), fmt.Sprintf("%.300q, not %.300q", found, expected))
}

func until(condition func() bool, what string) {
	for end := time.Now().Add(patient); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if condition() {
			return
		}
	}
	panic("waited in vain for " + what)
}

func restartServer() {
	fmt.Println("# restart")
	_, err := input.ReadString('\n')
	ok(err)
}

// ---- mailboxes ----

type answer struct {
	Error    string `json:"error"`
	MailID   string `json:"mail_id"`
	Inbox    string `json:"inbox"`
	SendOnly string `json:"send_only"`
	Owner    string `json:"owner"`
	Messages []struct {
		ID       int            `json:"msg_id"`
		Payload  string         `json:"payload"`
		Encoding string         `json:"encoding"`
		Headers  map[string]any `json:"headers"`
	} `json:"messages"`
	Unread    int `json:"unread"`
	Mailboxes []struct {
		MailID string `json:"mail_id"`
		Desc   string `json:"desc"`
	} `json:"mailboxes"`
}

func (a answer) payloads() []string {
	made := []string{}
	for _, message := range a.Messages {
		made = append(made, message.Payload)
	}
	return made
}

func (p *Peer) ask(verb string, body string, header nats.Header) answer {
	reply, err := p.RequestMsg(&nats.Msg{Subject: ai + verb, Data: []byte(body), Header: header}, patient)
	ok(err)
	var said answer
	ok(json.Unmarshal(reply.Data, &said))
	equal(said.Error, "")
	return said
}

func (p *Peer) create(body string) answer { return p.ask("MAILBOX.CREATE", body, nil) }

func (p *Peer) send(to answer, payloads ...string) {
	for _, payload := range payloads {
		p.ask("INBOX."+to.SendOnly, payload, nil)
	}
}

func isRefused(peer *Peer, said string) {
	until(func() bool { return len(peer.told(&peer.errors)) > 0 }, "a permissions error")
	holds(contains(peer.told(&peer.errors), said), peer.told(&peer.errors))
	peer.works()
	equal(peer.told(&peer.events), []string{})
}

func fails(words string, url string, options ...nats.Option) {
	_, err := tryConnect(url, append(options, nats.NoReconnect())...)
	holds(err != nil, "the connection was made")
	holds(strings.Contains(strings.ToLower(err.Error()), words), err)
}

var checks = map[string]func(){
	"name": func() { connect(nats.Name("a client with a name")).works() },

	"verbose": func() { connect(func(o *nats.Options) error { o.Verbose = true; return nil }).works() },

	"pedantic": func() { connect(func(o *nats.Options) error { o.Pedantic = true; return nil }).works() },

	"no-echo": func() {
		quiet, other, subject := connect(nats.NoEcho()), connect(), fresh()
		heard := quiet.listen(subject)
		quiet.publish(subject, "mine")
		other.publish(subject, "theirs")
		equal(take(heard, 1), []string{"theirs"})
		equal(quiet.left(heard), []string{})
	},

	"inbox-prefix": func() {
		peer, subject, reply := connect(nats.CustomInboxPrefix("_INBOX_mine")), fresh(), ""
		peer.answer(subject, func(m *nats.Msg) string { reply = m.Reply; return "yes" })
		_, err := peer.Request(subject, nil, 5*time.Second)
		ok(err)
		holds(strings.HasPrefix(reply, "_INBOX_mine."), reply)
	},

	"connect-timeout": func() {
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		ok(err)
		defer silent.Close()
		scheme := strings.Split(os.Getenv("PLAIN_URL"), ":")[0]
		fails("timeout", scheme+"://"+silent.Addr().String(), nats.Timeout(200*time.Millisecond))
	},

	"request-timeout": func() {
		peer, subject := connect(), fresh()
		peer.listen(subject)
		_, err := peer.Request(subject, nil, 200*time.Millisecond)
		holds(errors.Is(err, nats.ErrTimeout), err)
		peer.works()
	},

	"no-responders": func() {
		peer := connect()
		_, err := peer.Request(fresh(), nil, patient)
		holds(errors.Is(err, nats.ErrNoResponders), err)
		peer.works()
	},

	"client-pings": func() {
		peer := connect(nats.PingInterval(50*time.Millisecond), nats.MaxPingsOutstanding(2))
		time.Sleep(500 * time.Millisecond)
		equal(peer.told(&peer.events), []string{})
		peer.works()
	},

	"pub-sub": func() {
		publisher, subscriber, subject := connect(), connect(), fresh()
		heard := subscriber.listen(subject)
		publisher.publish(subject, numbers(1000)...)
		equal(take(heard, 1000), numbers(1000))
	},

	"wildcards": func() {
		peer, root := connect(), fresh()
		star, rest, other := peer.listen(root+".*.c"), peer.listen(root+".a.>"), peer.listen(root+".*.*.*.*")
		for _, tail := range []string{"a.c", "b.c", "a.b.c", "a", "x.y"} {
			peer.publish(root+"."+tail, tail)
		}
		equal(sorted(peer.left(star)), []string{"a.c", "b.c"})
		equal(sorted(peer.left(rest)), []string{"a.b.c", "a.c"})
		equal(peer.left(other), []string{})
	},

	"queue-group": func() {
		peers, subject := []*Peer{connect(), connect(), connect()}, fresh()
		members := []*nats.Subscription{}
		for _, peer := range peers {
			members = append(members, peer.listen(subject, "workers"))
		}
		everything := peers[0].listen(subject)
		peers[0].publish(subject, numbers(300)...)
		equal(take(everything, 300), numbers(300))
		found := []string{}
		for n, member := range members {
			share := peers[n].left(member)
			holds(len(share) > 0, "a member got nothing")
			found = append(found, share...)
		}
		equal(sorted(found), sorted(numbers(300)))
	},

	"auto-unsubscribe": func() {
		peer, subject := connect(), fresh()
		heard := peer.listen(subject)
		ok(heard.AutoUnsubscribe(3))
		peer.publish(subject, numbers(5)...)
		equal(take(heard, 3), numbers(3))
		_, err := heard.NextMsg(100 * time.Millisecond)
		holds(errors.Is(err, nats.ErrMaxMessages), err)
	},

	"request-one": func() { connect().works() },

	"request-old-style": func() {
		peer := connect(nats.UseOldRequestStyle())
		peer.works()
		_, err := peer.Request(fresh(), nil, patient)
		holds(errors.Is(err, nats.ErrNoResponders), err)
		peer.works()
	},

	"request-many": func() {
		asker, subject := connect(), fresh()
		for _, text := range numbers(3) {
			text := text
			connect().answer(subject, func(*nats.Msg) string { return text })
		}
		inbox := asker.NewRespInbox()
		replies := asker.listen(inbox)
		ok(asker.PublishRequest(subject, inbox, []byte("who is there?")))
		equal(sorted(take(replies, 3)), numbers(3))
	},

	"headers": func() { carries(nats.Header{"x-ODD-case": {"kept"}, "Colon": {"a: b"}}) },

	"headers-empty": func() { carries(nats.Header{"Empty": {""}, "Last": {"one"}}) },

	"headers-multi": func() { carries(nats.Header{"Many": {"one", "two"}, "many": {"three"}}) },

	"binary-payload": func() {
		peer, subject := connect(), fresh()
		heard := peer.listen(subject)
		payload := string(allBytes) + "\r\nPING\r\n" + string(allBytes)
		peer.publish(subject, payload)
		equal(take(heard, 1), []string{payload})
	},

	"empty-payload": func() {
		peer, subject := connect(), fresh()
		heard := peer.listen(subject)
		ok(peer.Publish(subject, nil))
		ok(peer.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{"a": {"b"}}}))
		plain, headed := next(heard), next(heard)
		equal([]int{len(plain.Data), len(plain.Header), len(headed.Data)}, []int{0, 0, 0})
		equal(headed.Header, nats.Header{"a": {"b"}})
	},

	"large-payload": func() {
		publisher, subscriber, subject := connect(), connect(), fresh()
		heard, payload := subscriber.listen(subject), string(bytes.Repeat(allBytes, mib/256))
		publisher.publish(subject, payload, payload, payload)
		for _, found := range take(heard, 3) {
			holds(found == payload, len(found), " bytes that differ")
		}
	},

	"max-payload-client": func() {
		peer := connect()
		equal(peer.MaxPayload(), int64(mib))
		err := peer.Publish(fresh(), make([]byte, mib+1))
		holds(errors.Is(err, nats.ErrMaxPayload), err)
		peer.works()
	},

	"max-payload-server": func() {
		peer := connectTo(os.Getenv("GENEROUS_URL"))
		ok(peer.Publish(fresh(), make([]byte, mib+1)))
		until(func() bool { return peer.has("reconnected") || peer.has("closed") }, "the end of the connection")
		holds(contains(peer.told(&peer.errors), "maximum payload violation"), peer.told(&peer.errors))
		if !peer.IsClosed() {
			peer.works()
		}
	},

	"flush": func() {
		publisher, subscriber, subject := connect(), connect(), fresh()
		heard := subscriber.listen(subject)
		publisher.publish(subject, "x")
		equal(subscriber.left(heard), []string{"x"})
	},

	"drain-subscription": func() {
		peer, subject := connect(), fresh()
		heard, subscription := peer.handle(subject)
		peer.publish(subject, numbers(50)...)
		ok(subscription.Drain())
		until(func() bool { return !subscription.IsValid() }, "the end of the subscription")
		peer.publish(subject, "too late")
		equal(heard(), numbers(50))
		peer.works()
	},

	"drain-connection": func() {
		peer, other, subject := connect(), connect(), fresh()
		heard, _ := peer.handle(subject)
		other.publish(subject, numbers(50)...)
		peer.flush()
		ok(peer.Drain())
		until(func() bool { return peer.has("closed") }, "the end of the connection")
		equal(heard(), numbers(50))
	},

	"reconnect": func() {
		peer, other, subject := connect(), connect(), fresh()
		plain, member := peer.listen(subject), peer.listen(subject+".*", "workers")
		limited := peer.listen(subject + ".limited")
		ok(limited.AutoUnsubscribe(2))
		peer.publish(subject+".limited", "first")
		take(limited, 1)
		take(member, 1)
		restartServer()
		until(func() bool { return peer.has("reconnected") && other.has("reconnected") }, "to connect again")
		peer.flush()
		other.publish(subject, "after")
		other.publish(subject+".limited", "0", "1")
		equal(take(plain, 1), []string{"after"})
		equal(take(member, 2), []string{"0", "1"})
		equal(take(limited, 1), []string{"0"})
		_, err := limited.NextMsg(100 * time.Millisecond)
		holds(errors.Is(err, nats.ErrMaxMessages), err)
		peer.works()
	},

	"thousand-connections": func() {
		subject, heard := fresh(), []*nats.Subscription{}
		for len(heard) < 1000 {
			heard = append(heard, connect().listen(subject))
		}
		opened[0].publish(subject, "to all")
		for _, subscription := range heard {
			equal(take(subscription, 1), []string{"to all"})
		}
	},

	"mailbox-subscribe": func() {
		sender, reader := connect(), connect()
		box := reader.create("{}")
		for _, word := range []string{"notify", "low", "normal", "high", "urgent", "critical"} {
			sender.ask("INBOX."+box.SendOnly, word, nats.Header{"mq9-priority": {word}, "x-Trace": {"7: f"}})
		}
		backlog := reader.listen(box.Inbox)
		for _, word := range []string{"critical", "high", "urgent", "normal", "notify", "low"} {
			message := next(backlog)
			equal([]string{string(message.Data), message.Subject}, []string{word, box.Inbox + "." + word})
			equal([]string{message.Header.Get("mq9-priority"), message.Header.Get("x-Trace")}, []string{word, "7: f"})
		}
	},

	"mailbox-live-and-drain": func() {
		sender, reader := connect(), connect()
		box := reader.create("{}")
		heard, subscription := reader.handle(box.Inbox)
		sender.send(box, numbers(50)...)
		reader.flush()
		ok(subscription.Drain())
		until(func() bool { return !subscription.IsValid() }, "the end of the subscription")
		equal(heard(), numbers(50))
		sender.send(box, "for the next reader")
		equal(take(reader.listen(box.Inbox), 51), append(numbers(50), "for the next reader"))
		equal(heard(), numbers(50))
	},

	"mailbox-old-style": func() {
		peer := connect(nats.UseOldRequestStyle())
		peer.send(peer.create("{}"), "x")
	},

	"mailbox-queue-group": func() {
		sender, one, two := connect(), connect(), connect()
		box := sender.create("{}")
		first, second := one.listen(box.Inbox, "workers"), two.listen(box.Inbox, "workers")
		sender.send(box, numbers(40)...)
		until(func() bool {
			a, _, _ := first.Pending()
			b, _, _ := second.Pending()
			return a+b >= 40 && a > 0 && b > 0
		}, "40 messages for two members")
		equal(sorted(append(one.left(first), two.left(second)...)), sorted(numbers(40)))
		one.Close()
		two.Close()
		last := connect().listen(box.Inbox, "workers")
		sender.send(box, "new")
		equal(take(last, 1), []string{"new"})
	},

	"mailbox-fetch-and-ack": func() {
		peer := connect()
		box := peer.create("{}")
		peer.send(box, "one", string(allBytes), "three")
		fetch, two := "MSG.FETCH."+box.MailID, `{"group_name":"g","member":"a","config":{"num_msgs":2}}`
		first := peer.ask(fetch, two, nil)
		equal([]int{first.Messages[0].ID, first.Messages[1].ID}, []int{1, 2})
		equal([]string{first.Messages[0].Payload, first.Messages[1].Encoding}, []string{"one", "base64"})
		peer.ask("MSG.ACK."+box.MailID, `{"group_name":"g","member":"a","msg_ids":[1,2]}`, nil)
		equal(peer.ask(fetch, two, nil).payloads(), []string{"three"})
		inbox := peer.NewRespInbox()
		replies, body := peer.listen(inbox), `{"group_name":"g","member":"a","ack":[3],"config":{"max_wait_ms":5000}}`
		ok(peer.PublishRequest(ai+fetch, inbox, []byte(body)))
		equal(peer.left(replies), []string{})
		peer.send(box, "four")
		var late answer
		ok(json.Unmarshal(next(replies).Data, &late))
		equal(late.payloads(), []string{"four"})
	},

	"mailbox-acknowledge": func() {
		peer := connect()
		dead := peer.create("{}")
		box := peer.create(`{"ack":"explicit","retain":"ack","dead_letter":"` + dead.SendOnly + `"}`)
		peer.send(box, "slow", "again", "hopeless", "asked")
		member := peer.listen(box.Inbox, "workers")
		slow, again, hopeless, asked := next(member), next(member), next(member), next(member)
		ok(slow.InProgress())
		ok(slow.Ack())
		ok(again.Nak())
		again = next(member)
		equal([]string{string(again.Data), again.Header.Get("mq9-deliveries")}, []string{"again", "2"})
		ok(again.Ack())
		ok(hopeless.Term())
		ok(asked.AckSync(nats.AckWait(patient)))
		equal(peer.ask("MAILBOX.QUERY."+box.MailID, "", nil).Unread, 0)
		letters := peer.ask("MAILBOX.QUERY."+dead.MailID, "", nil)
		equal(letters.payloads(), []string{"hopeless"})
		equal(letters.Messages[0].Headers["mq9-dead-reason"], "terminated")
		equal(peer.left(member), []string{})
		equal(peer.told(&peer.errors), []string{})
	},

	"mailbox-reply-address": func() {
		asker, answerer := connect(), connect()
		question, answers := answerer.create("{}"), asker.create("{}")
		to, reply := ai+"INBOX."+question.SendOnly, ai+"INBOX."+answers.SendOnly+".urgent"
		ok(asker.PublishRequest(to, reply, []byte("how?")))
		ok(next(answerer.listen(question.Inbox)).Respond([]byte("so")))
		got := next(asker.listen(answers.Inbox))
		equal([]string{string(got.Data), got.Header.Get("mq9-priority")}, []string{"so", "urgent"})
	},

	"mailbox-refused-wildcard": func() {
		peer := connect()
		peer.listen(ai + "MAILBOX.*")
		isRefused(peer, `permissions violation for subscription to "`+ai+`MAILBOX.*"`)
	},

	"mailbox-refused-publish": func() {
		peer := connect()
		peer.publish(ai+"INBOX.nobody-has-this", "lost?")
		isRefused(peer, `permissions violation for publish to "`+ai+`INBOX.nobody-has-this"`)
	},

	"mailbox-dropped": func() {
		peer := connect()
		box := peer.create("{}")
		subscription := peer.listen(box.Inbox)
		peer.ask("MAILBOX.DROP."+box.MailID, "", nil)
		last := next(subscription)
		equal(
			[]string{string(last.Data), last.Header.Get("Status"), last.Header.Get("Description")},
			[]string{"", "410", "Mailbox Expired"},
		)
		peer.works()
	},

	"mailbox-broadcast": func() {
		one, two, domain := connect(), connect(), random()
		heard, subject := one.listen(ai+"BROADCAST."+domain+".*"), ai+"BROADCAST."+domain+".done"
		header := nats.Header{"a": {"b"}}
		ok(two.PublishMsg(&nats.Msg{Subject: subject, Data: []byte("all of it"), Header: header}))
		message := next(heard)
		equal([]string{string(message.Data), message.Subject}, []string{"all of it", subject})
		equal(message.Header, header)
	},

	"mailbox-directory": func() {
		peer, name := connect(), "go-"+random()
		box := peer.create(`{"name":"` + name + `","public":true,"desc":"for a check"}`)
		listed := peer.ask("PUBLIC.LIST", `{"prefix":"`+name+`"}`, nil)
		equal([]string{listed.Mailboxes[0].MailID, listed.Mailboxes[0].Desc}, []string{name, "for a check"})
		peer.ask("MAILBOX.DROP."+box.Owner, "", nil)
	},

	"mailbox-restart": func() {
		peer := connect()
		box := peer.create("{}")
		peer.send(box, "before")
		subscription := peer.listen(box.Inbox)
		equal(take(subscription, 1), []string{"before"})
		restartServer()
		until(func() bool { return peer.has("reconnected") }, "to connect again")
		peer.send(box, "after")
		equal(take(subscription, 2), []string{"before", "after"})
	},

	"tls": func() {
		peer, subject := connectTo(os.Getenv("TLS_URL"), nats.RootCAs(os.Getenv("TLS_CA"))), fresh()
		peer.works()
		heard := peer.listen(subject)
		peer.publish(subject, string(make([]byte, mib)))
		equal(len(take(heard, 1)[0]), mib)
	},

	"tls-untrusted": func() {
		_, err := tryConnect(os.Getenv("TLS_URL"), nats.NoReconnect())
		var unknown x509.UnknownAuthorityError
		holds(errors.As(err, &unknown), err)
	},

	"tls-client": func() {
		url, trusted := os.Getenv("MUTUAL_URL"), nats.RootCAs(os.Getenv("TLS_CA"))
		connectTo(url, trusted, nats.ClientCert(os.Getenv("TLS_CERT"), os.Getenv("TLS_CERT"))).works()
		_, err := tryConnect(url, trusted, nats.NoReconnect())
		holds(err != nil, "the connection was made without a certificate")
	},

	"user-password": func() {
		connectTo(os.Getenv("USERS_URL"), nats.UserInfo("agent", os.Getenv("PASSWORD"))).works()
	},

	"wrong-password": func() {
		fails("authorization violation", os.Getenv("USERS_URL"), nats.UserInfo("agent", "wrong"))
	},

	"nkey": func() {
		signed, err := nats.NkeyOptionFromSeed(os.Getenv("NKEY_FILE"))
		ok(err)
		connectTo(os.Getenv("USERS_URL"), signed).works()
	},

	"token": func() {
		connectTo(os.Getenv("TOKEN_URL"), nats.Token(os.Getenv("TOKEN"))).works()
		fails("authorization violation", os.Getenv("TOKEN_URL"), nats.Token("wrong"))
	},
}

func carries(header nats.Header) {
	peer, subject := connect(), fresh()
	heard := peer.listen(subject)
	ok(peer.PublishMsg(&nats.Msg{Subject: subject, Data: []byte("body"), Header: header}))
	message := next(heard)
	equal(string(message.Data), "body")
	equal(message.Header, header)
}

// handle takes a millisecond for each message; the function gives what it has handled.
func (p *Peer) handle(subject string) (func() []string, *nats.Subscription) {
	var lock sync.Mutex
	heard := []string{}
	subscription, err := p.Subscribe(subject, func(m *nats.Msg) {
		time.Sleep(time.Millisecond)
		lock.Lock()
		defer lock.Unlock()
		heard = append(heard, string(m.Data))
	})
	ok(err)
	p.flush()
	return func() []string {
		lock.Lock()
		defer lock.Unlock()
		return append([]string{}, heard...)
	}, subscription
}

func run(called string) (wrong any) {
	done := make(chan any, 1)
	go func() {
		defer func() { done <- recover() }()
		checks[called]()
	}()
	select {
	case wrong = <-done:
	case <-time.After(longest):
		wrong = "it took too long"
	}
	for _, peer := range opened {
		peer.Close()
	}
	opened = nil
	return wrong
}

func main() {
	fmt.Println("# nats.go", nats.Version, runtime.Version())
	for _, called := range os.Args[1:] {
		if wrong := run(called); wrong != nil {
			fmt.Printf("not ok - %s - %s\n", called, strings.Join(strings.Fields(fmt.Sprint(wrong)), " "))
		} else {
			fmt.Printf("ok - %s\n", called)
		}
	}
}
