// A client in JavaScript (npm install zeromq): every alarm of this run and later ones, once and in order. See docs/protocol.md.
import { Request, Subscriber } from "zeromq";

const [host = "127.0.0.1", port = "5555"] = process.argv.slice(2);
const events = new Subscriber();
events.connect(`tcp://${host}:${port}`);
events.subscribe("v1/alarm/", "v1/heartbeat/");
const place = new Map(); // topic → [epoch, seq] of the newest event had

async function ask(question) {
  const socket = new Request({ receiveTimeout: 1000, linger: 0 });
  socket.connect(`tcp://${host}:${Number(port) + 1}`);
  try {
    await socket.send(JSON.stringify(question));
    return JSON.parse((await socket.receive())[0].toString());
  } catch {
    return {}; // no answer in time: the next heartbeat shows the hole again
  } finally {
    socket.close();
  }
}

function show(topic, event) {
  place.set(topic, [event.epoch, event.seq]);
  console.log(JSON.stringify(event));
}

for await (const [name, data] of events) {
  const message = JSON.parse(data.toString());
  const last = name.toString() === "v1/heartbeat/" ? message.last : { [name.toString()]: message.seq };
  for (const [topic, seq] of Object.entries(last).filter(([t]) => t.startsWith("v1/alarm/"))) {
    if (!place.has(topic)) place.set(topic, [message.epoch, 0]);
    const [epoch, had] = place.get(topic);
    if ("id" in message && epoch === message.epoch && had + 1 === seq) show(topic, message); // it follows on
    let more = place.get(topic)[0] !== message.epoch || place.get(topic)[1] < seq; // something is missing: ask for it
    while (more) {
      const [since, number] = place.get(topic);
      const reply = await ask({ from: { [topic]: number }, epoch: since });
      for (const [, event] of reply.events ?? []) show(topic, event);
      more = reply.more === true;
    }
  }
}
