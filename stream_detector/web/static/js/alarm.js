// One alarm: clip, snapshot, the windows that raised it, the time of each stage, its verdict and its acknowledgement.
import { get, h, post, store } from "./dom.js";
import { brief, long, media, span } from "./time.js";
import { chip } from "./alarms.js";
import { Chart } from "./chart.js";
import { listen } from "./keys.js";
import { Review } from "./review.js";
import { withWhere } from "./where.js";

// Verdict, its key, its label, and what it means.
export const VERDICTS = [
  ["true", "t", "True", "something happened, and it matters"],
  ["false", "f", "False", "nothing of the kind happened"],
  ["benign", "b", "Benign", "a correct alarm that needs no action"],
  ["unsure", "u", "Unsure", "impossible to tell"],
];

export async function open(main, context, id, query) {
  let detail = await get(`/api/alarms/${id}`), timer = 0, closed = false, tries = 0;
  const review = new Review(context, id, query);
  const keys = listen([
    ["j", "the next older alarm that matches", () => review.go("older")], ["k", "the next newer alarm that matches", () => review.go("newer")],
    ...VERDICTS.map(([word, key, label, title]) => [key, `verdict ${label.toLowerCase()}: ${title}`, () => { if (context.run.may_write) judge(word); }]),
    ["n", "write a note", () => { if (context.run.may_write) note.focus(); }], ["l", "back to the list", () => context.go(review.list)],
  ]);
  const face = h("div", { class: "stack seen" }), head = h("div", { class: "row bar" }), pairs = h("dl", { class: "pairs" }), bars = h("div", { class: "bars" });
  const canvas = h("canvas", { class: "chart tall", role: "img", "aria-label": "Scores of the windows that raised this alarm" });
  const chart = new Chart(canvas), table = h("div", { class: "table" }), seen = h("div", { class: "stack" });
  const note = h("textarea", { maxlength: 500, placeholder: "what it was, what was done" });
  const by = h("input", { maxlength: 64, autocomplete: "name", value: store.get("by", "") });
  const why = h("p", { role: "alert", class: "error" });
  const judged = h("p", { class: "soft", role: "status" });
  const buttons = VERDICTS.map(([word, key, label, title]) => h("button", { type: "button", title: `${title} (key ${key})`, "data-verdict": word, "aria-pressed": "false", onclick: () => judge(word) }, label, h("kbd", {}, key)));
  const verdict = h("div", { class: "stack" }, judged, h("div", { class: "row verdicts" }, buttons));
  const form = h("form", { class: "stack", onsubmit: acknowledge }, h("label", {}, "Note", note), h("label", {}, "Your name", by), h("button", { class: "main", type: "submit" }, "Acknowledge"));
  review.node.append(keys.button);
  main.replaceChildren(head, review.node, h("div", { class: "detail judging" },
    h("div", { class: "stack" }, face, h("section", { class: "panel stack" }, h("h2", {}, "Windows of this alarm"), canvas, legend(), table)),
    h("div", { class: "stack" }, h("section", { class: "panel stack judge" }, h("h2", {}, "Verdict"), verdict, why), h("section", { class: "panel stack" }, h("h2", {}, "Acknowledge"), seen, form), h("section", { class: "panel stack" }, h("h2", {}, "Details"), pairs), h("section", { class: "panel stack" }, h("h2", {}, "Where the time went"), bars))));

  async function acknowledge(event) {
    event.preventDefault();
    why.textContent = "";
    try {
      store.set("by", by.value);
      Object.assign(detail, await post(`/api/alarms/${id}/ack`, { note: note.value, by: by.value }));
      note.value = "";
      show();
    } catch (error) { why.textContent = error.message; }
  }

  async function judge(word) {
    why.textContent = "";
    try {
      store.set("by", by.value);
      Object.assign(detail, await post(`/api/alarms/${id}/verdict`, { verdict: word, note: note.value, by: by.value }));
      note.value = "";
      if (closed) return;
      show();
      review.judged();
    } catch (error) { why.textContent = error.message; }
  }
  function show() {
    const of = detail.verdict;
    judged.textContent = of ? `${of.verdict}, ${long(of.utc)}${of.by ? ` by ${of.by}` : ""}${of.note ? `: “${of.note}”` : ""}` : "No verdict yet. Press a key or a button.";
    buttons.forEach((button) => { button.setAttribute("aria-pressed", String(Boolean(of) && of.verdict === button.dataset.verdict)); button.disabled = !context.run.may_write; });
    form.hidden = !context.run.may_write;
    if (!context.run.may_write) why.textContent = context.run.can_sign_in ? "Sign in as an operator to record verdicts and acknowledgements." : "This page is read-only: see access.local_writes and web.operator_token_file.";
    head.replaceChildren(h("h1", {}, `Alarm on ${detail.camera}`), chip(detail), h("span", { class: "soft" }, brief(detail.start_utc)),
      h("span", { class: "end row" }, h("a", { class: "button", href: review.list, "data-link": "" }, "Back to the list"), h("a", { class: "button", href: `/replay?camera=${detail.camera}&t=${detail.start_s}`, "data-link": "" }, "Replay")));
    const pair = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
    pairs.replaceChildren(...pair("camera", detail.camera), ...pair("started", long(detail.start_utc)), ...pair("media time", `${media(detail.start_s)} – ${media(detail.end_s)}`), ...pair("duration", span(detail)),
      ...pair("reported", long(detail.reported_utc)), ...pair("ended", detail.ended_utc ? `${long(detail.ended_utc)} (${detail.reason})` : "still open"), ...pair("peak", detail.peak_score.toFixed(3)), ...pair("threshold", detail.threshold.toFixed(3)),
      ...(detail.kind ? pair("kind", detail.kind) : []), ...(detail.severity ? pair("severity", detail.severity) : []),
      ...pair("degraded", detail.degraded.join(", ") || "no"), ...pair("model", detail.bundle), ...pair("id", detail.id));
    const timing = Object.entries(detail.timing || {}), most = Math.max(1, ...timing.map(([, ms]) => ms));
    bars.replaceChildren(...timing.map(([name, ms]) => h("div", {}, h("span", {}, name), h("meter", { min: 0, max: most, value: ms, "aria-label": `${name}: ${ms.toFixed(1)} milliseconds` }), h("span", {}, `${ms.toFixed(1)} ms`))),
      timing.length ? "" : h("p", { class: "soft" }, "not available"));
    seen.replaceChildren(detail.ack ? h("p", {}, `Acknowledged ${long(detail.ack.utc)}${detail.ack.by ? ` by ${detail.ack.by}` : ""}`) : h("p", { class: "soft" }, "Nobody has acknowledged this alarm."), detail.ack && detail.ack.note ? h("blockquote", { class: "soft" }, detail.ack.note) : "");
    const times = detail.windows.every((w) => w.end_s !== undefined);  // events of earlier versions have frame numbers only
    const rows = detail.windows.map((w) => [times ? w.end_s : w.end_frame, w.raw, w.smoothed, 0]);
    chart.unit = times ? media : String;
    chart.set({ rows, threshold: detail.threshold });
    canvas.setAttribute("aria-label", `Scores of ${rows.length} windows, peak ${detail.peak_score.toFixed(2)}`);
    table.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, [times ? "time" : "frames", "raw", "smoothed"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, detail.windows.slice(0, 12).map((w) => h("tr", {}, h("td", {}, times ? `${media(w.start_s)} – ${media(w.end_s)}` : `${w.start_frame}–${w.end_frame}`), h("td", {}, w.raw.toFixed(3)), h("td", {}, w.smoothed.toFixed(3)))))),
      detail.windows.length > 12 ? h("p", { class: "soft" }, `and ${detail.windows.length - 12} more`) : "");
  }

  let has = "";
  function media_() {
    const now = `${detail.clip} ${detail.snapshot}`;
    if (now === has) return;
    has = now;
    const still = detail.snapshot ? h("img", { class: "still", alt: `${detail.camera} at the peak of the alarm`, src: `/api/alarms/${id}/snapshot.jpg` }) : null;
    const clip = detail.clip ? h("video", { controls: true, muted: true, playsinline: true, preload: "metadata", "aria-label": `Clip of the alarm on ${detail.camera}`, src: `/api/alarms/${id}/clip.mp4` }) : null;
    const note = h("p", { class: "none" });
    if (clip && !detail.playable) {
      note.textContent = "The camera's format is one that browsers do not play: a copy is being made, which takes some seconds.";
      clip.addEventListener("loadedmetadata", () => { note.textContent = "This is a copy in H.264."; });
      clip.addEventListener("error", () => { note.textContent = "No playable copy could be made; download the original."; });
    }
    const original = clip ? h("p", {}, h("a", { href: `/api/alarms/${id}/clip.mp4?original=1`, download: "" }, "Download the original"), " ", note) : "";
    face.replaceChildren(clip || h("div", { class: "film" }, h("p", { class: "none" }, detail.evidence ? "The clip appears some seconds after the end of the alarm." : "No clip was kept for this alarm.")), original, withWhere(still, detail.where) || "");
  }

  async function again() {
    if (closed) return;
    try { detail = { ...await get(`/api/alarms/${id}`) }; show(); media_(); } catch { /* try again later */ }
    wait();
  }
  function wait() {
    clearTimeout(timer);
    if (!closed && detail.evidence && !(detail.clip && detail.snapshot && detail.state === "ended") && (detail.state === "open" || tries++ < 30)) timer = setTimeout(again, 2000);
  }
  const offs = [context.on("alarm", (alarm) => { if (alarm.key === detail.key) { tries = 0; again(); } }), context.on("link", (state) => { if (state === "live") again(); })];
  show();
  media_();
  wait();
  review.load().catch((error) => { why.textContent = error.message; });
  return () => { closed = true; keys.close(); review.close(); clearTimeout(timer); offs.forEach((off) => off()); chart.close(); };
}

export function legend(alarms) {
  return h("p", { class: "legend" }, h("span", {}, h("i"), "smoothed"), h("span", {}, h("i", { class: "raw" }), "raw"), h("span", {}, h("i", { class: "threshold" }), "threshold"), alarms ? h("span", {}, h("i", { class: "box" }), "alarm") : null);
}
