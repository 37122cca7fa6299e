// One camera over days: scores, alarms, gaps, recordings; the cursor shows what was kept of its moment.
import { get, h, setText } from "./dom.js";
import { brief, long } from "./time.js";
import { TimeChart } from "./timechart.js";

const RANGES = [[1, "1 hour"], [6, "6 hours"], [24, "1 day"], [72, "3 days"], [168, "1 week"], [336, "2 weeks"]];
const HOUR = 3600000, NEAR = 15000, REFRESH_MS = 60000;

export async function open(main, context, _name, query) {
  const names = context.run.cameras.map((c) => c.name);
  let camera = names.includes(query.get("camera")) ? query.get("camera") : names[0], data = null, closed = false, timer = 0, asked = 0, film = null;
  let hours = RANGES.some(([n]) => n === Number(query.get("hours"))) ? Number(query.get("hours")) : 24;
  let until = Date.parse(query.get("until") || "") || null, cursor = Date.parse(query.get("at") || "") || null;
  const canvas = h("canvas", { class: "chart timeline", role: "img", "aria-label": "Scores, alarms and recordings over time" }), chart = new TimeChart(canvas);
  const stage = h("div", { class: "film" }), what = h("p", { class: "soft" }), why = h("p", { class: "error", role: "alert" }), list = h("ol", { class: "marks", "aria-label": "Alarms of this time, newest first" });
  const clock = h("output", { class: "row", "aria-live": "polite" }), span = h("p", { class: "soft" });
  const slider = h("input", { type: "range", "aria-label": "Moment", oninput: () => move(Number(slider.value)) });
  const pick = (label, options, now, change) => h("label", {}, label, h("select", { onchange: (event) => change(event.target.value) }, options.map(([key, text]) => h("option", { value: String(key), selected: key === now }, text))));
  const later = h("button", { type: "button", onclick: () => shift(1) }, "Later ›"), now = h("button", { type: "button", onclick: () => { until = null; load(); } }, "Now");
  main.replaceChildren(h("div", { class: "row bar" }, h("h1", {}, "Timeline"), h("span", { class: "end row" },
    pick("Camera", names.map((n) => [n, n]), camera, (value) => { camera = value; load(); }), pick("Shown", RANGES, hours, (value) => { hours = Number(value); load(); }),
    h("button", { type: "button", onclick: () => shift(-1) }, "‹ Earlier"), later, now)),
  why, h("section", { class: "panel stack" }, canvas, slider, clock, legend(), span),
  h("div", { class: "detail timed" }, h("div", { class: "stack" }, stage, what), h("section", { class: "panel stack" }, h("h2", {}, "Alarms"), list)));
  const drag = (event) => { if (data && (event.type === "pointerdown" || event.buttons & 1)) move(chart.timeAt(event)); };
  canvas.addEventListener("pointerdown", drag);
  canvas.addEventListener("pointermove", drag);

  function shift(by) {
    const end = (until || Date.now()) + by * hours * HOUR * 0.75;
    until = end >= Date.now() - 60000 ? null : end;
    load();
  }

  function remember() {
    const shown = new URLSearchParams({ camera, hours, ...(until ? { until: new Date(until).toISOString() } : {}), ...(cursor ? { at: new Date(cursor).toISOString() } : {}) });
    history.replaceState(null, "", `/timeline?${shown}`);
  }

  async function load() {
    clearTimeout(timer);
    const own = ++asked, end = until || Date.now(), wanted = { since: new Date(end - hours * HOUR).toISOString(), until: new Date(end).toISOString(), bins: Math.min(480, Math.max(60, Math.round(canvas.clientWidth / 3))) };
    const found = await get(`/api/timeline/${camera}?${new URLSearchParams(wanted)}`).catch((error) => { setText(why, error.message); return null; });
    if (closed || own !== asked) return;
    if (!until) timer = setTimeout(load, REFRESH_MS);
    if (!found) return;
    setText(why, "");
    const to = Date.parse(found.until);
    const alarms = found.alarms.map((a) => ({ ...a, from: Date.parse(a.start_utc), to: a.ended_utc ? Date.parse(a.ended_utc) : Math.min(to, Date.now()) }));
    data = { ...found, alarms, from: Date.parse(found.since), to };
    later.disabled = now.disabled = until === null;
    slider.min = data.from;
    slider.max = data.to;
    slider.step = 1000;
    const scored = found.bins.filter(Boolean).length, peak = Math.max(0, ...found.bins.filter(Boolean).map((b) => b[2]));
    setText(span, `${brief(found.since)} to ${brief(found.until)}`);
    canvas.setAttribute("aria-label", `${camera}: ${alarms.length} alarms, highest score ${peak.toFixed(2)}, ${found.bins.length ? Math.round(100 * scored / found.bins.length) : 0} % of the time scored, ${found.recorded.length} recorded spans`);
    list.replaceChildren(...alarms.map((a) => h("li", {}, h("button", { type: "button", onclick: () => move(a.from) }, brief(a.start_utc)), ` peak ${a.peak_score.toFixed(2)}${a.verdict ? `, ${a.verdict}` : ""} `, h("a", { href: `/alarms/${a.key}?camera=${camera}`, "data-link": "" }, "open"))), alarms.length ? "" : h("li", { class: "soft" }, "none"), found.more ? h("li", { class: "soft" }, "and older ones") : "");
    move(cursor !== null && cursor >= data.from && cursor <= data.to ? cursor : alarms.length ? alarms[0].from : data.to);
  }

  function move(at) {
    cursor = at;
    slider.value = at;
    const iso = new Date(at).toISOString(), bin = data.bins[Math.floor((at - data.from) / (data.bin_s * 1000))], alarm = data.alarms.find((a) => at >= a.from - NEAR && at <= a.to + NEAR);
    const text = `${long(iso)} · ${bin ? `peak ${bin[2].toFixed(2)}, mean ${bin[1].toFixed(2)}` : "nothing was scored"}${alarm ? " · alarm" : ""}`;
    setText(clock, text);
    slider.setAttribute("aria-valuetext", text);
    chart.set(data, cursor);
    remember();
    show(at, alarm);
  }

  // what was kept of a moment: the recording, else the clip of an alarm near it
  function show(at, alarm) {
    const file = data.recorded.flatMap((s) => s.files).find(([, from, to]) => at / 1000 >= from && at / 1000 <= to);
    if (file) play(`/api/recordings/${camera}/${file[0]}`, at / 1000 - file[1], `Recording from ${brief(new Date(file[1] * 1000).toISOString())}.`);
    else if (alarm && alarm.clip) play(`/api/alarms/${alarm.key}/clip.mp4`, null, "Clip of the alarm at this moment.");
    else { film = null; stage.replaceChildren(h("p", { class: "none" }, "No recording for this moment.")); setText(what, ""); }
  }

  function play(src, seconds, text) {
    if (!film || film.src !== src) {
      const video = h("video", { controls: true, muted: true, playsinline: true, preload: "metadata", src, "aria-label": text });
      film = { src, video };
      video.addEventListener("error", () => what.replaceChildren("This browser does not play the camera's format. ", h("a", { href: src, download: "" }, "Download the file")));
      video.addEventListener("loadedmetadata", () => { if (film && film.wanted !== null) video.currentTime = film.wanted; });
      stage.replaceChildren(video);
      setText(what, text);
    }
    film.wanted = seconds;
    if (seconds !== null && film.video.readyState > 0) film.video.currentTime = seconds;
  }

  const off = context.on("alarm", (alarm) => { if (alarm.camera === camera && !until && data) { clearTimeout(timer); timer = setTimeout(load, 2000); } });
  await load();
  return () => { closed = true; clearTimeout(timer); off(); chart.close(); };
}

function legend() {
  const entry = (name, text) => h("span", {}, h("i", { class: name }), text);
  return h("p", { class: "legend" }, entry("mean", "mean score"), entry("peak", "highest score"), entry("threshold", "threshold"), entry("alarmed", "alarm"), entry("kept", "recorded"), entry("unscored", "not scored"));
}
