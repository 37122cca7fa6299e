// The list of alarms: newest first, filtered, live.
import { get, h, setText } from "./dom.js";
import { brief, media, span, toUtc, zone } from "./time.js";

const JUDGED = { true: ["true", "alarm"], false: ["false", "good"], benign: ["benign", "good"], unsure: ["unsure", "warn"] };

export function chip(alarm) {
  const judged = alarm.verdict && JUDGED[alarm.verdict.verdict];
  const [text, kind] = judged || (alarm.ack ? ["seen", "good"] : alarm.state === "open" ? ["open", "alarm"] : ["new", "warn"]);
  return h("span", { class: `chip ${kind}` }, text);
}

function facts(alarm) {
  return [
    h("div", { class: "row" }, h("h2", {}, alarm.camera), chip(alarm), alarm.reason && alarm.reason !== "normal" ? h("span", { class: "chip" }, alarm.reason) : null),
    h("div", {}, brief(alarm.start_utc)),
    h("div", { class: "soft" }, `at ${media(alarm.start_s)}, ${span(alarm)} · peak ${alarm.peak_score.toFixed(2)} (threshold ${alarm.threshold.toFixed(2)})`),
    alarm.degraded.length ? h("div", { class: "soft" }, `degraded: ${alarm.degraded.join(", ")}`) : null,
    alarm.ack && alarm.ack.note ? h("div", {}, `“${alarm.ack.note}”${alarm.ack.by ? ` – ${alarm.ack.by}` : ""}`) : null,
  ].filter(Boolean);
}

class Item {
  constructor(alarm) {
    this.thumb = h("div", { class: "thumb" }, "no snapshot");
    this.text = h("div", { class: "text" });
    this.link = h("a", { class: "item panel", href: `/alarms/${alarm.key}`, "data-link": "" }, this.thumb, this.text);
    this.node = h("li", {}, this.link);
    this.set(alarm);
  }

  set(alarm) {
    this.alarm = alarm;
    this.text.replaceChildren(...facts(alarm));
    this.link.classList.toggle("open", alarm.state === "open" && !alarm.ack);
    if (alarm.evidence && !this.img) this.picture(0);
  }

  picture(tries) {
    const img = this.img = h("img", { alt: "", decoding: "async", src: `/api/alarms/${this.alarm.key}/snapshot.jpg?${tries}` });
    img.addEventListener("error", () => {
      this.thumb.replaceChildren("no snapshot");
      if (tries < 5 && this.node.isConnected && this.alarm.state === "open") setTimeout(() => this.picture(tries + 1), 1000);
    });
    this.thumb.replaceChildren(img);
  }
}

export async function open(main, context, _id, query) {
  const value = (name) => query.get(name) || "";
  const items = new Map();
  const list = h("ol", { class: "list", "aria-label": "Alarms, newest first" });
  const message = h("p", { class: "quiet", role: "status" });
  const more = h("button", { type: "button", hidden: true, onclick: () => load(false) }, "Older alarms");
  const params = () => new URLSearchParams([["camera", camera.value], ["state", state.value], ["since", toUtc(since.value)], ["until", toUtc(until.value)]].filter(([, v]) => v));
  const changed = () => {
    const shown = new URLSearchParams([["camera", camera.value], ["state", state.value], ["since", since.value], ["until", until.value]].filter(([, v]) => v));
    history.replaceState(null, "", `/alarms${shown.size ? `?${shown}` : ""}`);
    load(true);
  };
  const select = (options, now) => h("select", { onchange: changed }, options.map(([key, text]) => h("option", { value: key, selected: key === now }, text)));
  const camera = select([["", "all"], ...context.run.cameras.map((c) => [c.name, c.name])], value("camera"));
  const state = select([["", "all"], ["open", "open"], ["ended", "ended"], ["new", "not acknowledged"], ["seen", "acknowledged"], ["unjudged", "not judged"], ["judged", "judged"]], value("state"));
  const since = h("input", { type: "datetime-local", title: `Time zone: ${zone}`, value: value("since"), onchange: changed });
  const until = h("input", { type: "datetime-local", title: `Time zone: ${zone}`, value: value("until"), onchange: changed });
  const save = (kind) => h("button", { type: "button", onclick: () => location.assign(`/api/alarms.${kind}?${params()}`) }, `Export ${kind.toUpperCase()}`);
  main.replaceChildren(h("h1", { class: "bar" }, "Alarms"),
    h("div", { class: "filters" }, h("label", {}, "Camera", camera), h("label", {}, "State", state), h("label", {}, "From", since), h("label", {}, "To", until), h("span", { class: "end" }, save("csv"), save("json"))),
    message, list, h("div", { class: "pager" }, more));

  let oldest = null, asked = 0;
  async function load(anew) {
    const own = ++asked, wanted = params();
    if (!anew && oldest !== null) wanted.set("before", oldest);
    const body = await get(`/api/alarms?${wanted}`).catch((error) => { message.textContent = error.message; return null; });
    if (!body || own !== asked) return;
    if (anew) { items.clear(); list.replaceChildren(); }
    for (const alarm of body.alarms) {
      if (items.has(alarm.key)) { items.get(alarm.key).set(alarm); continue; }
      const item = new Item(alarm);
      items.set(alarm.key, item);
      list.append(item.node);
      oldest = alarm.number;
    }
    more.hidden = !body.more;
    context.unseen(body.unseen);
    showCount();
  }
  const showCount = () => setText(message, items.size ? "" : "No alarm matches. The coverage on the live page shows how much footage was scored.");
  const matches = (alarm) => (!camera.value || alarm.camera === camera.value) && (!until.value || alarm.start_utc <= toUtc(until.value)) && (!since.value || alarm.start_utc >= toUtc(since.value))
    && ({ open: alarm.state === "open", ended: alarm.state === "ended", new: !alarm.ack, seen: Boolean(alarm.ack), judged: Boolean(alarm.verdict), unjudged: !alarm.verdict }[state.value] ?? true);
  const offs = [
    context.on("alarm", (alarm) => {
      const item = items.get(alarm.key);
      if (item && !matches(alarm)) {
        items.delete(alarm.key);
        item.node.remove();
      } else if (item && item.alarm.number === alarm.number) item.set(alarm);
      else if (matches(alarm)) {
        if (item) item.node.remove();
        const added = new Item(alarm);
        items.set(alarm.key, added);
        list.prepend(added.node);
      }
      showCount();
    }),
    context.on("link", (state) => { if (state === "live") load(true); }),
  ];
  await load(true);
  return () => offs.forEach((off) => off());
}
