// Mailboxes from JavaScript with nats.js alone: a mailbox is made, written to while nobody listens, and read.

import { connect, headers } from "@nats-io/transport-node";

const nc = await connect({ servers: process.env.MQ9_URL ?? "nats://127.0.0.1:4222" });

async function ask(subject, fields = {}) {
  const answer = (await nc.request(`$mq9.AI.${subject}`, JSON.stringify(fields), { timeout: 10000 })).json();
  if (answer.error) throw new Error(answer.error);
  return answer;
}

// A sender knows the send-only address. The answer to a request says that the message is stored.
async function send(address, content, options = {}) {
  const sent = headers();
  for (const [name, value] of Object.entries(options)) sent.set(`mq9-${name}`, value);
  const reply = await nc.request(`$mq9.AI.INBOX.${address}`, JSON.stringify(content), { headers: sent, timeout: 10000 });
  const { error, msg_id } = reply.json();
  if (error) throw new Error(error);
  return msg_id;
}

const mailbox = await ask("MAILBOX.CREATE", { ttl: 600 });
await send(mailbox.send_only, { say: "the report is ready" });
await send(mailbox.send_only, { say: "stop the deployment" }, { priority: "critical" });
console.log("two messages are stored, nobody listens yet");

// A subscription gets everything that waits, most urgent first, then what arrives.
const live = nc.subscribe(mailbox.inbox, { max: 2 });
for await (const message of live) {
  console.log(`[${message.headers.get("mq9-priority")}] ${message.json().say}`);
}

// A group shares the mail: each message goes to one of its readers, and counts when it is acknowledged.
const { messages } = await ask(`MSG.FETCH.${mailbox.mail_id}`, { group_name: "workers", config: { num_msgs: 10 } });
await ask(`MSG.ACK.${mailbox.mail_id}`, { group_name: "workers", msg_ids: messages.map((message) => message.msg_id) });
console.log(`the group took ${messages.length} and acknowledged them`);

await ask(`MAILBOX.DROP.${mailbox.mail_id}`);
await nc.close();
