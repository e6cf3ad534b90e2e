// The checks of tests/clients/checks.py with the three libraries for JavaScript: `node suite.mjs LIBRARY CHECK…`,
// LIBRARY being transport-node, nats (the older package) or nats-core (over WebSocket).

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { WebSocket } from "ws";

const [which, ...asked] = process.argv.slice(2);
const packageName = which === "nats" ? which : `@nats-io/${which}`;
const library = await import(packageName);
const { createInbox, headers, nkeyAuthenticator } = library;
// the packages keep it to themselves: it is taken out of the file that defines it
const { toJsMsg } = (
  await import(`./node_modules/${which === "nats" ? "nats/lib/jetstream" : "@nats-io/jetstream/lib"}/jsmsg.js`)
).default;

const AI = "$mq9.AI.";
const MIB = 1 << 20;
const SECONDS = 30;
const ALL_BYTES = Uint8Array.from({ length: 256 }, (_, n) => n);
const { env } = process;

const checks = {};
let opened = [];
const socketErrors = [];

// Node 20 has no WebSocket of its own; this is also where a certificate authority is named, and where one learns why a
// handshake failed.
function socketFor(files) {
  return (url) => {
    const [ca, cert, key] = Object.values(files).map((file) => file && readFileSync(file));
    const socket = new WebSocket(url, { ca, cert, key, perMessageDeflate: !url.startsWith(env.GENEROUS_URL) });
    socket.on("error", (error) => socketErrors.push(error.message));
    return { socket, encrypted: url.startsWith("wss:") };
  };
}

class Peer {
  static async connect(url = env.PLAIN_URL, { caFile, certFile, keyFile, ...options } = {}) {
    const files = { caFile, certFile, keyFile };
    const given = { servers: url, reconnectTimeWait: 50, maxReconnectAttempts: 200, timeout: 5000, ...options };
    if (which === "nats-core") {
      given.wsFactory = socketFor(files);
    } else if (url.startsWith("tls:")) {
      given.tls = files;
    }
    const peer = new Peer();
    peer.nc = await (library.connect ?? library.wsconnect)(given);
    opened.push(peer);
    peer.events = [];
    peer.errors = [];
    peer.watch();
    peer.nc.closed().then((error) => {
      peer.events.push("closed");
      if (error) peer.errors.push(error.message);
    });
    return peer;
  }

  async watch() {
    for await (const status of this.nc.status()) {
      this.events.push(status.type);
      if (status.type !== "error") continue;
      const context = status.permissionContext;
      this.errors.push(
        context
          ? `permissions violation for ${context.operation} to "${context.subject}"`
          : (status.error?.message ?? status.data),
      );
    }
  }

  said(text) {
    return this.errors.some((error) => error.toLowerCase().includes(text.toLowerCase()));
  }

  // a subscription that keeps what it gets; the server has seen it when this resolves
  async listen(subject, options = {}) {
    const heard = [];
    const subscription = this.nc.subscribe(subject, {
      ...options,
      callback: (error, message) => (error ? this.errors.push(error.message) : heard.push(message)),
    });
    await this.nc.flush();
    return { subscription, heard, subject };
  }

  async ask(verb, body = {}, options = {}) {
    const data = typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body);
    return JSON.parse(text(await this.nc.request(AI + verb, data, { timeout: 10_000, ...options })));
  }

  async create(fields = {}) {
    const made = await this.ask("MAILBOX.CREATE", { ttl: 600, ...fields });
    assert.equal(made.error, "");
    return made;
  }

  async send(to, payload, options) {
    assert.equal((await this.ask(`INBOX.${to}`, payload, options)).error, "");
  }

  async works() {
    const { subscription, heard } = await this.answer(fresh(), (message) => text(message).toUpperCase());
    const reply = await this.nc.request(subscription.getSubject(), "hello", { timeout: 5000 });
    assert.equal(text(reply), "HELLO");
    subscription.unsubscribe();
    return heard;
  }

  async answer(subject, reply) {
    const heard = [];
    const subscription = this.nc.subscribe(subject, {
      callback: (_, message) => {
        heard.push(message);
        message.respond(reply(message));
      },
    });
    await this.nc.flush();
    return { subscription, heard };
  }
}

const connect = (url, options) => Peer.connect(url, options);
const fresh = () => `js.${randomBytes(6).toString("hex")}`;
const text = (message) => Buffer.from(message.data).toString();
const texts = (messages) => messages.map(text);
const numbers = (count) => Array.from({ length: count }, (_, n) => String(n));

async function until(condition, what) {
  for (const end = Date.now() + 10_000; Date.now() < end; await sleep(5)) {
    if (condition()) return;
  }
  assert.ok(condition(), `waited in vain for ${what()}`);
}

async function take(listening, count) {
  await until(() => listening.heard.length >= count, () => `${count} messages, ${listening.heard.length} came`);
  return listening.heard.splice(0, count);
}

// for what must not have come
async function left(peer, listening) {
  await peer.nc.flush();
  await sleep(0);
  return listening.heard.splice(0);
}

async function restartServer() {
  const answered = new Promise((resolve) => process.stdin.once("data", resolve));
  process.stdin.resume();
  console.log("# restart");
  await answered;
  process.stdin.pause();
}

async function fails(promise, ...words) {
  const error = await promise.then(
    () => assert.fail("it succeeded"),
    (error) => error,
  );
  const said = [error.name, error.code, error.message, error.cause?.message, ...socketErrors].join(" ").toLowerCase();
  assert.ok(words.some((word) => said.includes(word)), said);
}

// ---- connect options ----

checks["name"] = async () => void (await (await connect(undefined, { name: "a client with a name" })).works());

checks["verbose"] = async () => void (await (await connect(undefined, { verbose: true })).works());

checks["pedantic"] = async () => void (await (await connect(undefined, { pedantic: true })).works());

checks["no-echo"] = async () => {
  const [quiet, other] = [await connect(undefined, { noEcho: true }), await connect()];
  const listening = await quiet.listen(fresh());
  quiet.nc.publish(listening.subject, "mine");
  await quiet.nc.flush();
  other.nc.publish(listening.subject, "theirs");
  assert.deepEqual(texts(await take(listening, 1)), ["theirs"]);
  assert.deepEqual(texts(await left(quiet, listening)), []);
};

checks["inbox-prefix"] = async () => {
  const peer = await connect(undefined, { inboxPrefix: "_INBOX_mine" });
  const { heard, subscription } = await peer.answer(fresh(), () => "yes");
  assert.equal(text(await peer.nc.request(subscription.getSubject())), "yes");
  assert.match(heard[0].reply, /^_INBOX_mine\./);
};

checks["connect-timeout"] = async () => {
  const held = [];
  const silent = createServer((socket) => held.push(socket.on("error", () => {})));
  await new Promise((resolve) => silent.listen(0, "127.0.0.1", resolve));
  const url = `${env.PLAIN_URL.split(":")[0]}://127.0.0.1:${silent.address().port}`;
  try {
    await fails(connect(url, { timeout: 200, reconnect: false }), "timeout", "refused");
  } finally {
    held.forEach((socket) => socket.destroy());
    silent.close();
  }
};

checks["request-timeout"] = async () => {
  const peer = await connect();
  const { subject } = await peer.listen(fresh());
  await fails(peer.nc.request(subject, "", { timeout: 200 }), "timeout");
  await peer.works();
};

checks["no-responders"] = async () => {
  const peer = await connect();
  await fails(peer.nc.request(fresh(), "", { timeout: 10_000 }), "503", "no responders");
  await peer.works();
};

checks["client-pings"] = async () => {
  const peer = await connect(undefined, { pingInterval: 50, maxPingOut: 2 });
  await sleep(500);
  assert.deepEqual(peer.events.filter((event) => !/ping/i.test(event)), []);
  await peer.works();
};

// ---- messages ----

checks["pub-sub"] = async () => {
  const [publisher, subscriber] = [await connect(), await connect()];
  const listening = await subscriber.listen(fresh());
  numbers(1000).forEach((payload) => publisher.nc.publish(listening.subject, payload));
  assert.deepEqual(texts(await take(listening, 1000)), numbers(1000));
};

checks["wildcards"] = async () => {
  const peer = await connect();
  const root = fresh();
  const [star, rest, other] = [
    await peer.listen(`${root}.*.c`),
    await peer.listen(`${root}.a.>`),
    await peer.listen(`${root}.*.*.*.*`),
  ];
  for (const tail of ["a.c", "b.c", "a.b.c", "a", "x.y"]) peer.nc.publish(`${root}.${tail}`, tail);
  assert.deepEqual(texts(await left(peer, star)).sort(), ["a.c", "b.c"]);
  assert.deepEqual(texts(await left(peer, rest)).sort(), ["a.b.c", "a.c"]);
  assert.deepEqual(texts(await left(peer, other)), []);
};

checks["queue-group"] = async () => {
  const peers = [await connect(), await connect(), await connect()];
  const subject = fresh();
  const members = [];
  for (const peer of peers) members.push(await peer.listen(subject, { queue: "workers" }));
  const everything = await peers[0].listen(subject);
  numbers(300).forEach((payload) => peers[0].nc.publish(subject, payload));
  assert.deepEqual(texts(await take(everything, 300)), numbers(300));
  await until(() => members.flatMap(({ heard }) => heard).length >= 300, () => "300 messages for the group");
  const shares = [];
  for (const [n, peer] of peers.entries()) shares.push(texts(await left(peer, members[n])));
  assert.deepEqual(shares.flat().sort((a, b) => a - b), numbers(300));
  assert.ok(shares.every((share) => share.length), `shares of ${shares.map((share) => share.length)}`);
};

checks["auto-unsubscribe"] = async () => {
  const peer = await connect();
  const listening = await peer.listen(fresh(), { max: 3 });
  numbers(5).forEach((payload) => peer.nc.publish(listening.subject, payload));
  assert.deepEqual(texts(await left(peer, listening)), ["0", "1", "2"]);
  assert.ok(listening.subscription.isClosed());
};

checks["request-one"] = async () => void (await (await connect()).works());

checks["request-old-style"] = async () => {
  const peer = await connect();
  const { subscription } = await peer.answer(fresh(), () => "yes");
  const old = { noMux: true, timeout: 10_000 };
  assert.equal(text(await peer.nc.request(subscription.getSubject(), "", old)), "yes");
  await fails(peer.nc.request(fresh(), "", old), "503", "no responders");
  await peer.works();
};

checks["request-many"] = async () => {
  const [asker, ...answerers] = [await connect(), await connect(), await connect(), await connect()];
  const subject = fresh();
  for (const [n, peer] of answerers.entries()) await peer.answer(subject, () => String(n));
  const found = [];
  const replies = await asker.nc.requestMany(subject, "who is there?", {
    strategy: "count",
    maxMessages: 3,
    maxWait: 5000,
  });
  for await (const reply of replies) found.push(text(reply));
  assert.deepEqual(found.sort(), ["0", "1", "2"]);
};

checks["headers"] = async () => {
  const peer = await connect();
  const listening = await peer.listen(fresh());
  const sent = headers();
  sent.append("x-ODD-case", "kept");
  sent.append("Colon", "a: b");
  peer.nc.publish(listening.subject, "body", { headers: sent });
  const [message] = await take(listening, 1);
  assert.equal(text(message), "body");
  assert.deepEqual([...message.headers], [["x-ODD-case", ["kept"]], ["Colon", ["a: b"]]]);
};

checks["headers-empty"] = async () => {
  const peer = await connect();
  const listening = await peer.listen(fresh());
  const sent = headers();
  sent.append("Empty", "");
  sent.append("Last", "one");
  peer.nc.publish(listening.subject, "body", { headers: sent });
  const [message] = await take(listening, 1);
  assert.deepEqual([...message.headers], [["Empty", [""]], ["Last", ["one"]]]);
};

checks["headers-multi"] = async () => {
  const peer = await connect();
  const listening = await peer.listen(fresh());
  const sent = headers();
  for (const [key, value] of [["Many", "one"], ["Many", "two"], ["many", "three"]]) sent.append(key, value);
  peer.nc.publish(listening.subject, "body", { headers: sent });
  const [message] = await take(listening, 1);
  assert.deepEqual([message.headers.values("Many"), message.headers.values("many")], [["one", "two"], ["three"]]);
};

checks["binary-payload"] = async () => {
  const peer = await connect();
  const listening = await peer.listen(fresh());
  const payload = Buffer.concat([ALL_BYTES, Buffer.from("\r\nPING\r\n"), ALL_BYTES]);
  peer.nc.publish(listening.subject, payload);
  assert.deepEqual(Buffer.from((await take(listening, 1))[0].data), payload);
};

checks["empty-payload"] = async () => {
  const peer = await connect();
  const listening = await peer.listen(fresh());
  const sent = headers();
  sent.set("a", "b");
  peer.nc.publish(listening.subject);
  peer.nc.publish(listening.subject, undefined, { headers: sent });
  const [plain, headed] = await take(listening, 2);
  assert.deepEqual([plain.data.length, plain.headers], [0, undefined]);
  assert.deepEqual([headed.data.length, headed.headers.get("a")], [0, "b"]);
};

checks["large-payload"] = async () => {
  const [publisher, subscriber] = [await connect(), await connect()];
  const listening = await subscriber.listen(fresh());
  const payload = Buffer.alloc(MIB, ALL_BYTES);
  for (let n = 0; n < 3; n++) publisher.nc.publish(listening.subject, payload);
  for (const message of await take(listening, 3)) assert.ok(payload.equals(message.data), "bytes that differ");
};

checks["max-payload-client"] = async () => {
  const peer = await connect();
  assert.equal(peer.nc.info.max_payload, MIB);
  const publish = async () => peer.nc.publish(fresh(), new Uint8Array(MIB + 1));
  await fails(publish(), "max_payload");
  await peer.works();
};

checks["max-payload-server"] = async () => {
  const peer = await connect(env.GENEROUS_URL);
  peer.nc.publish(fresh(), new Uint8Array(MIB + 1));
  // the older package tells its user the kind of error only
  const expected = which === "nats" ? "NATS_PROTOCOL_ERR" : "maximum payload violation";
  await until(() => peer.said(expected), () => `the server's error, got ${peer.errors}`);
  await until(() => /reconnect$|closed/.test(peer.events.at(-1)), () => `the connection's end, got ${peer.events}`);
  if (!peer.nc.isClosed()) await peer.works();
};

// ---- the life of a connection ----

checks["flush"] = async () => {
  const [publisher, subscriber] = [await connect(), await connect()];
  const listening = await subscriber.listen(fresh());
  publisher.nc.publish(listening.subject, "x");
  await publisher.nc.flush();
  assert.deepEqual(texts(await left(subscriber, listening)), ["x"]);
};

checks["drain-subscription"] = async () => {
  const peer = await connect();
  const subscription = peer.nc.subscribe(fresh());
  numbers(50).forEach((payload) => peer.nc.publish(subscription.getSubject(), payload));
  const drained = subscription.drain();
  const heard = [];
  for await (const message of subscription) {
    heard.push(text(message));
    await sleep(1);
  }
  await drained;
  peer.nc.publish(subscription.getSubject(), "too late");
  await peer.nc.flush();
  assert.deepEqual(heard, numbers(50));
  await peer.works();
};

checks["drain-connection"] = async () => {
  const [peer, other] = [await connect(), await connect()];
  const listening = await peer.listen(fresh());
  numbers(50).forEach((payload) => other.nc.publish(listening.subject, payload));
  await other.nc.flush();
  await peer.nc.drain();
  assert.deepEqual(texts(listening.heard), numbers(50));
  assert.ok(peer.nc.isClosed());
};

checks["reconnect"] = async () => {
  const [peer, other] = [await connect(), await connect()];
  const subject = fresh();
  const plain = await peer.listen(subject);
  const member = await peer.listen(`${subject}.*`, { queue: "workers" });
  const limited = await peer.listen(`${subject}.limited`, { max: 2 });
  peer.nc.publish(limited.subject, "first");
  await take(limited, 1);
  await take(member, 1);
  await restartServer();
  for (const each of [peer, other]) {
    await until(() => each.events.includes("reconnect"), () => "to connect again");
    await each.nc.flush();
  }
  other.nc.publish(subject, "after");
  numbers(2).forEach((payload) => other.nc.publish(`${subject}.limited`, payload));
  assert.deepEqual(texts(await take(plain, 1)), ["after"]);
  assert.deepEqual(texts(await take(member, 2)), ["0", "1"]);
  assert.deepEqual(texts(await left(peer, limited)), ["0"]);
  await peer.works();
};

checks["thousand-connections"] = async () => {
  const peers = [];
  const subject = fresh();
  while (peers.length < 1000) peers.push(...(await Promise.all(Array.from({ length: 50 }, () => connect()))));
  const listening = await Promise.all(peers.map((peer) => peer.listen(subject)));
  peers[0].nc.publish(subject, "to all");
  for (const each of listening) assert.deepEqual(texts(await take(each, 1)), ["to all"]);
};

// ---- mailboxes ----

checks["mailbox-subscribe"] = async () => {
  const [sender, reader] = [await connect(), await connect()];
  const made = await reader.create();
  for (const word of ["notify", "low", "normal", "high", "urgent", "critical"]) {
    const sent = headers();
    sent.set("mq9-priority", word);
    sent.set("x-Trace", "7: f");
    await sender.send(made.send_only, word, { headers: sent });
  }
  const found = await take(await reader.listen(made.inbox), 6);
  assert.deepEqual(texts(found), ["critical", "high", "urgent", "normal", "notify", "low"]);
  for (const message of found) {
    assert.equal(message.headers.get("mq9-priority"), text(message));
    assert.equal(message.headers.get("x-Trace"), "7: f");
    assert.equal(message.subject, `${made.inbox}.${text(message)}`);
  }
};

checks["mailbox-live-and-drain"] = async () => {
  const [sender, reader] = [await connect(), await connect()];
  const made = await reader.create();
  const listening = await reader.listen(made.inbox);
  for (const payload of numbers(50)) await sender.send(made.send_only, payload);
  await listening.subscription.drain();
  assert.deepEqual(texts(listening.heard), numbers(50));
  await sender.send(made.send_only, "for the next reader");
  assert.equal((await take(await reader.listen(made.inbox), 51)).length, 51);
  assert.equal(listening.heard.length, 50);
};

checks["mailbox-old-style"] = async () => {
  const peer = await connect();
  const old = { noMux: true };
  const made = await peer.ask("MAILBOX.CREATE", { ttl: 600 }, old);
  assert.deepEqual(await peer.ask(`INBOX.${made.send_only}`, "x", old), { error: "", msg_id: 1 });
};

checks["mailbox-queue-group"] = async () => {
  const [sender, one, two] = [await connect(), await connect(), await connect()];
  const made = await sender.create();
  const members = [];
  for (const peer of [one, two]) members.push(await peer.listen(made.inbox, { queue: "workers" }));
  for (const payload of numbers(40)) await sender.send(made.send_only, payload);
  await until(() => members[0].heard.length + members[1].heard.length >= 40, () => "40 messages for the group");
  const shares = [await left(one, members[0]), await left(two, members[1])].map(texts);
  assert.deepEqual(shares.flat().sort((a, b) => a - b), numbers(40));
  assert.ok(shares.every((share) => share.length), `shares of ${shares.map((share) => share.length)}`);
  await one.nc.close();
  await two.nc.close();
  const last = await (await connect()).listen(made.inbox, { queue: "workers" });
  await sender.send(made.send_only, "new");
  assert.deepEqual(texts(await take(last, 1)), ["new"]);
};

checks["mailbox-fetch-and-ack"] = async () => {
  const peer = await connect();
  const made = await peer.create();
  for (const payload of ["one", ALL_BYTES, "three"]) await peer.send(made.send_only, payload);
  const fetch = `MSG.FETCH.${made.mail_id}`;
  const as = { group_name: "g", member: "a" };
  const first = await peer.ask(fetch, { ...as, config: { num_msgs: 2 } });
  assert.deepEqual(first.messages.map((message) => message.msg_id), [1, 2]);
  assert.deepEqual([first.messages[0].payload, first.messages[1].encoding], ["one", "base64"]);
  assert.equal((await peer.ask(`MSG.ACK.${made.mail_id}`, { ...as, msg_ids: [1, 2] })).error, "");
  const second = await peer.ask(fetch, { ...as, config: { num_msgs: 2 } });
  assert.deepEqual(second.messages.map((message) => message.payload), ["three"]);
  const waiting = peer.ask(fetch, { ...as, ack: [3], config: { max_wait_ms: 5000 } });
  await peer.nc.flush();
  await peer.send(made.send_only, "four");
  assert.deepEqual((await waiting).messages.map((message) => message.payload), ["four"]);
};

checks["mailbox-acknowledge"] = async () => {
  const peer = await connect();
  const dead = await peer.create();
  const made = await peer.create({ ack: "explicit", retain: "ack", dead_letter: dead.send_only });
  for (const payload of ["slow", "again", "hopeless", "asked"]) await peer.send(made.send_only, payload);
  const member = await peer.listen(made.inbox, { queue: "workers" });
  const [slow, again, hopeless, asked] = (await take(member, 4)).map((message) => toJsMsg(message));
  slow.working();
  slow.ack();
  again.nak();
  const [back] = (await take(member, 1)).map((message) => toJsMsg(message));
  assert.deepEqual([back.string(), back.headers.get("mq9-deliveries")], ["again", "2"]);
  back.ack();
  hopeless.term();
  assert.equal(await asked.ackAck({ timeout: 10_000 }), true);
  assert.equal((await peer.ask(`MAILBOX.QUERY.${made.mail_id}`)).unread, 0);
  const letters = (await peer.ask(`MAILBOX.QUERY.${dead.mail_id}`)).messages;
  assert.deepEqual(
    letters.map((letter) => [letter.payload, letter.headers["mq9-dead-reason"]]),
    [["hopeless", "terminated"]],
  );
  assert.deepEqual([texts(await left(peer, member)), peer.errors], [[], []]);
};

checks["mailbox-reply-address"] = async () => {
  const [asker, answerer] = [await connect(), await connect()];
  const [question, answers] = [await answerer.create(), await asker.create()];
  const reply = `${AI}INBOX.${answers.send_only}.urgent`;
  asker.nc.publish(`${AI}INBOX.${question.send_only}`, "how?", { reply });
  const [message] = await take(await answerer.listen(question.inbox), 1);
  message.respond("so");
  const [answer] = await take(await asker.listen(answers.inbox), 1);
  assert.deepEqual([text(answer), answer.headers.get("mq9-priority")], ["so", "urgent"]);
};

async function refused(peer, operation, subject) {
  await until(() => peer.errors.length, () => "a permissions error");
  assert.ok(peer.said(`permissions violation for ${operation} to "${subject}"`), String(peer.errors));
  await peer.works();
  assert.deepEqual(peer.events.filter((event) => event !== "error"), []);
}

checks["mailbox-refused-wildcard"] = async () => {
  const peer = await connect();
  await peer.listen(`${AI}MAILBOX.*`);
  await refused(peer, "subscription", `${AI}MAILBOX.*`);
};

checks["mailbox-refused-publish"] = async () => {
  const peer = await connect();
  peer.nc.publish(`${AI}INBOX.nobody-has-this`, "lost?");
  await refused(peer, "publish", `${AI}INBOX.nobody-has-this`);
};

checks["mailbox-dropped"] = async () => {
  const peer = await connect();
  const made = await peer.create();
  const listening = await peer.listen(made.inbox);
  assert.equal((await peer.ask(`MAILBOX.DROP.${made.mail_id}`)).error, "");
  const [last] = await take(listening, 1);
  assert.deepEqual([last.data.length, last.headers.code, last.headers.description], [0, 410, "Mailbox Expired"]);
  await peer.works();
};

checks["mailbox-broadcast"] = async () => {
  const [one, two] = [await connect(), await connect()];
  const domain = randomBytes(4).toString("hex");
  const listening = await one.listen(`${AI}BROADCAST.${domain}.*`);
  const sent = headers();
  sent.set("a", "b");
  two.nc.publish(`${AI}BROADCAST.${domain}.done`, "all of it", { headers: sent });
  const [message] = await take(listening, 1);
  assert.deepEqual(
    [text(message), message.headers.get("a"), message.subject],
    ["all of it", "b", `${AI}BROADCAST.${domain}.done`],
  );
};

checks["mailbox-directory"] = async () => {
  const peer = await connect();
  const name = `js-${randomBytes(4).toString("hex")}`;
  const made = await peer.create({ name, public: true, desc: "for a check" });
  const listed = await peer.ask("PUBLIC.LIST", { prefix: name });
  assert.deepEqual(listed.mailboxes.map((box) => [box.mail_id, box.desc]), [[name, "for a check"]]);
  assert.equal((await peer.ask(`MAILBOX.DROP.${made.owner}`)).error, "");
};

checks["mailbox-restart"] = async () => {
  const peer = await connect();
  const made = await peer.create();
  await peer.send(made.send_only, "before");
  const listening = await peer.listen(made.inbox);
  assert.deepEqual(texts(await take(listening, 1)), ["before"]);
  await restartServer();
  await until(() => peer.events.includes("reconnect"), () => "to connect again");
  await peer.send(made.send_only, "after");
  assert.deepEqual(texts(await take(listening, 2)), ["before", "after"]);
};

// ---- ways in ----

checks["tls"] = async () => {
  const peer = await connect(env.TLS_URL, { caFile: env.TLS_CA });
  await peer.works();
  const listening = await peer.listen(fresh());
  peer.nc.publish(listening.subject, new Uint8Array(MIB));
  assert.equal((await take(listening, 1))[0].data.length, MIB);
};

checks["tls-untrusted"] = async () =>
  fails(connect(env.TLS_URL, { reconnect: false }), "certificate", "unable to verify");

checks["tls-client"] = async () => {
  const files = { caFile: env.TLS_CA, certFile: env.TLS_CERT, keyFile: env.TLS_CERT };
  await (await connect(env.MUTUAL_URL, files)).works();
  // what became of the handshake shows in many ways later: any will do
  const anonymous = connect(env.MUTUAL_URL, { caFile: env.TLS_CA, reconnect: false });
  await fails(anonymous.then((peer) => peer.works()), "");
};

checks["user-password"] = async () => {
  await (await connect(env.USERS_URL, { user: "agent", pass: env.PASSWORD })).works();
};

checks["wrong-password"] = async () =>
  fails(connect(env.USERS_URL, { user: "agent", pass: "wrong", reconnect: false }), "authorization violation");

checks["nkey"] = async () => {
  await (await connect(env.USERS_URL, { authenticator: nkeyAuthenticator(readFileSync(env.NKEY_FILE)) })).works();
};

checks["token"] = async () => {
  await (await connect(env.TOKEN_URL, { token: env.TOKEN })).works();
  await fails(connect(env.TOKEN_URL, { token: "wrong", reconnect: false }), "authorization violation");
};

const manifest = new URL(`node_modules/${packageName}/package.json`, import.meta.url);
console.log(`# ${packageName} ${JSON.parse(readFileSync(manifest)).version}, Node.js ${process.version}`);
for (const called of asked) {
  const late = new AbortController();
  const limit = sleep(SECONDS * 1000, undefined, { signal: late.signal }).then(() => assert.fail("it took too long"));
  limit.catch(() => {});
  try {
    await Promise.race([checks[called](), limit]);
    console.log(`ok - ${called}`);
  } catch (error) {
    console.log(`not ok - ${called} - ${String(error.stack).replace(/\s+/g, " ")}`);
  }
  late.abort();
  const closing = opened;
  opened = [];
  await Promise.allSettled(closing.map((peer) => peer.nc.close()));
}
process.exit(0);
