// The list of alarms: newest first, filtered, live.
import { get, h, setText } from "./dom.js";
import { VERDICT_WORDS, fromQuery, matches, toParams, toQuery } from "./filter.js";
import { listen } from "./keys.js";
import { brief, media, span, zone } from "./time.js";

const JUDGED = { true: ["true", "alarm"], false: ["false", "good"], benign: ["benign", "good"], unsure: ["unsure", "warn"] };

export function chip(alarm) {
  const judged = alarm.verdict && JUDGED[alarm.verdict.verdict];
  const [text, kind] = judged || (alarm.ack ? ["seen", "good"] : alarm.state === "open" ? ["open", "alarm"] : ["new", "warn"]);
  return h("span", { class: `chip ${kind}` }, text);
}

function facts(alarm) {
  return [
    h("div", { class: "row" }, h("h2", {}, alarm.camera), chip(alarm), alarm.kind ? h("span", { class: "chip" }, alarm.kind) : null, alarm.severity ? h("span", { class: "chip" }, `severity ${alarm.severity}`) : null, alarm.reason && alarm.reason !== "normal" ? h("span", { class: "chip" }, alarm.reason) : null),
    h("div", {}, brief(alarm.start_utc)),
    h("div", { class: "soft" }, `at ${media(alarm.start_s)}, ${span(alarm)} · peak ${alarm.peak_score.toFixed(2)} (threshold ${alarm.threshold.toFixed(2)})`),
    alarm.degraded.length ? h("div", { class: "soft" }, `degraded: ${alarm.degraded.join(", ")}`) : null,
    alarm.ack && alarm.ack.note ? h("div", {}, `“${alarm.ack.note}”${alarm.ack.by ? ` – ${alarm.ack.by}` : ""}`) : null,
  ].filter(Boolean);
}

class Item {
  constructor(alarm, filter) {
    this.thumb = h("div", { class: "thumb" }, "no snapshot");
    this.text = h("div", { class: "text" });
    this.link = h("a", { class: "item panel", href: `/alarms/${alarm.key}${filter}`, "data-link": "" }, this.thumb, this.text);
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
  const items = new Map(), values = fromQuery(query);
  const list = h("ol", { class: "list", "aria-label": "Alarms, newest first" });
  const message = h("p", { class: "quiet", role: "status" });
  const more = h("button", { type: "button", hidden: true, onclick: () => load(false) }, "Older alarms");
  const set = (name) => (event) => { values[name] = event.target.value; history.replaceState(null, "", `/alarms${toQuery(values)}`); load(true); };
  const options = (found, now) => found.map(([key, text]) => h("option", { value: key, selected: key === now }, text));
  const select = (label, name, found) => h("label", {}, label, h("select", { onchange: set(name) }, options(found, values[name])));
  const moment = (label, name) => h("label", {}, label, h("input", { type: "datetime-local", title: `Time zone: ${zone}`, value: values[name], onchange: set(name) }));
  const kind = select("Kind", "kind", []), severity = select("Severity", "severity", []);
  kind.hidden = severity.hidden = true;  // until an alarm carries one
  const save = (type) => h("button", { type: "button", onclick: () => location.assign(`/api/alarms.${type}?${toParams(values)}`) }, `Export ${type.toUpperCase()}`);
  const step = (by) => {
    const links = [...list.querySelectorAll("a")], at = links.indexOf(document.activeElement);
    if (by > 0 && at === links.length - 1 && !more.hidden) { load(false).then(() => { if (links.length < items.size) step(by); }); return; }
    const next = links[at < 0 ? 0 : Math.min(links.length - 1, Math.max(0, at + by))];
    if (next) next.focus();
  };
  const keys = listen([["j", "to the next older alarm", () => step(1)], ["k", "to the next newer alarm", () => step(-1)],
    ["Enter", "open it"]]);
  main.replaceChildren(h("div", { class: "row bar" }, h("h1", {}, "Alarms"), h("span", { class: "end row" }, keys.button)),
    h("div", { class: "filters" }, select("Camera", "camera", [["", "all"], ...context.run.cameras.map((c) => [c.name, c.name])]), select("Verdict", "verdict", VERDICT_WORDS), kind, severity,
      select("State", "state", [["", "all"], ["open", "open"], ["ended", "ended"], ["new", "not acknowledged"], ["seen", "acknowledged"]]), moment("From", "since"), moment("To", "until"), h("span", { class: "end" }, save("csv"), save("json"))),
    message, list, h("div", { class: "pager" }, more));
  function offer(label, name, words) {
    const all = values[name] && !words.includes(values[name]) ? [...words, values[name]] : words;
    label.hidden = !all.length;
    if (label.lastChild.length !== all.length + 1) label.lastChild.replaceChildren(...options([["", "all"], ...all.map((word) => [word, word])], values[name]));
  }

  let oldest = null, asked = 0;
  async function load(anew) {
    const own = ++asked, wanted = toParams(values);
    if (!anew && oldest !== null) wanted.set("before", oldest);
    const body = await get(`/api/alarms?${wanted}`).catch((error) => { message.textContent = error.message; return null; });
    if (!body || own !== asked) return;
    if (anew) { items.clear(); list.replaceChildren(); }
    for (const alarm of body.alarms) {
      if (items.has(alarm.key)) { items.get(alarm.key).set(alarm); continue; }
      const item = new Item(alarm, toQuery(values));
      items.set(alarm.key, item);
      list.append(item.node);
      oldest = alarm.number;
    }
    more.hidden = !body.more;
    offer(kind, "kind", body.kinds);
    offer(severity, "severity", body.severities);
    context.unseen(body.unseen);
    showCount();
  }
  const showCount = () => setText(message, items.size ? "" : "No alarm matches. The coverage on the live page shows how much footage was scored.");
  const offs = [
    context.on("alarm", (alarm) => {
      const item = items.get(alarm.key);
      if (item && !matches(alarm, values)) {
        items.delete(alarm.key);
        item.node.remove();
      } else if (item && item.alarm.number === alarm.number) item.set(alarm);
      else if (matches(alarm, values)) {
        if (item) item.node.remove();
        const added = new Item(alarm, toQuery(values));
        items.set(alarm.key, added);
        list.prepend(added.node);
      }
      showCount();
    }),
    context.on("link", (state) => { if (state === "live") load(true); }),
  ];
  await load(true);
  return () => { keys.close(); offs.forEach((off) => off()); };
}
