"""A whole client in plain pyzmq: every alarm of this run and later ones, once and in order. See docs/protocol.md."""

import json
import sys

import zmq

host, port = sys.argv[1:3] if len(sys.argv) > 2 else ("127.0.0.1", "5555")
context = zmq.Context()
events, recovery = context.socket(zmq.SUB), context.socket(zmq.REQ)
for option in (zmq.REQ_RELAXED, zmq.REQ_CORRELATE):
    recovery.setsockopt(option, 1)  # after a time-out, ask again
events.connect(f"tcp://{host}:{port}")
recovery.connect(f"tcp://{host}:{int(port) + 1}")
events.subscribe("v1/alarm/")
events.subscribe("v1/heartbeat/")
place = {}  # topic → [epoch, seq] of the newest event had


def show(topic, event):
    place[topic] = [event["epoch"], event["seq"]]
    print(json.dumps(event), flush=True)


while True:
    topic, body = events.recv_multipart()
    message = json.loads(body)
    last = message["last"] if topic == b"v1/heartbeat/" else {topic.decode(): message["seq"]}
    for name, seq in last.items():
        if not name.startswith("v1/alarm/"):
            continue
        if place.setdefault(name, [message["epoch"], 0]) == [message["epoch"], seq - 1] and "id" in message:
            show(name, message)  # it follows on
        more = place[name][0] != message["epoch"] or place[name][1] < seq  # something is missing: ask for it
        while more:
            recovery.send_json({"from": {name: place[name][1]}, "epoch": place[name][0]})
            reply = recovery.recv_json() if recovery.poll(1000) else {}
            for _, event in reply.get("events", []):
                show(name, event)
            more = reply.get("more", False)
