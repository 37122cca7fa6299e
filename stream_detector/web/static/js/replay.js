// A recording on the timeline: its scores and alarms, and the picture beside them at every moment.
import { get, h, setText } from "./dom.js";
import { Chart } from "./chart.js";
import { media } from "./time.js";
import { legend } from "./alarm.js";
import { readEvents, readScores } from "./files.js";

const STEP_S = 0.2;

export async function open(main, context, _name, query) {
  const cameras = context.run.cameras, opened = { scores: new Map(), events: new Map(), video: null };
  let rows = [], alarms = [], at = Number(query.get("t")) || 0, film = null, playing = false, closed = false;
  let turn = 0; // only the answer to the last request is shown
  const pick = h("select", { onchange: () => choose(pick.value) }, cameras.map((c) => h("option", { value: c.name, selected: c.name === query.get("camera") }, c.name)));
  const file = h("input", { type: "file", multiple: true, accept: ".csv,.jsonl,video/*,.mkv", onchange: take });
  const inside = h("select", { onchange: () => showOpened(inside.value) }), insideLabel = h("label", { hidden: true }, "Camera in the files", inside);
  const stage = h("div", { class: "film" });
  const canvas = h("canvas", { class: "chart tall", role: "img", "aria-label": "Scores over time" }), chart = new Chart(canvas);
  const slider = h("input", { type: "range", min: 0, max: 1, step: 0.04, value: 0, "aria-label": "Time", oninput: () => move(Number(slider.value)) });
  const clock = h("output", {}), score = h("span", { class: "soft" }), list = h("div", { class: "row" }), why = h("p", { class: "error", role: "alert" });
  const play = h("button", { type: "button", onclick: toggle }, "Play");
  main.replaceChildren(h("div", { class: "row bar" }, h("h1", {}, "Replay"), h("span", { class: "end row" }, h("label", {}, "Camera of this run", pick), h("label", {}, "Or open files: scores.csv, events.jsonl, video", file), insideLabel)),
    why, h("div", { class: "detail" }, h("div", { class: "stack" }, stage, h("div", { class: "row" }, play, clock, score)), h("section", { class: "panel stack" }, h("h2", {}, "Timeline"), canvas, slider, legend(true), h("h2", {}, "Alarms"), list)));

  const drag = (event) => { if (event.buttons & 1) move(chart.timeAt(event)); };
  canvas.addEventListener("pointerdown", drag);
  canvas.addEventListener("pointermove", drag);

  // a film shows a moment: frames from the detector, or a local video
  function frames(name) {
    const img = h("img", { alt: `Picture of ${name} at the time of the cursor` }), none = h("p", { class: "none" }, "");
    let busy = false, next = null;
    img.addEventListener("error", () => { busy = false; setText(none, "no picture at this time"); on(); });
    img.addEventListener("load", () => { busy = false; setText(none, ""); on(); });
    const on = () => { if (next !== null) { const s = next; next = null; show(s); } };
    const show = (s) => { if (busy) { next = s; return; } busy = true; img.src = `/api/replay/${name}/frame.jpg?t=${s.toFixed(2)}`; };
    stage.replaceChildren(img, none);
    return { show, ready: () => !busy, stop() {} };
  }
  function local(source) {
    const url = URL.createObjectURL(source), video = h("video", { muted: true, playsinline: true, preload: "auto", src: url, "aria-label": source.name }), none = h("p", { class: "none" }, "");
    video.addEventListener("error", () => setText(none, "This browser cannot play this video; the scores are shown without it."));
    video.addEventListener("loadedmetadata", () => { if (Number.isFinite(video.duration)) limits(); });
    stage.replaceChildren(video, none);
    return { show: (s) => { video.currentTime = s; }, ready: () => !video.seeking, length: () => video.duration || 0, stop: () => URL.revokeObjectURL(url) };
  }

  function limits() {
    const last = Math.max(rows.length ? rows[rows.length - 1][0] : 0, film && film.length ? film.length() : 0, 0.1);
    slider.max = last;
    chart.set({ from: 0, to: last });
  }
  function move(s) {
    at = Math.min(Math.max(0, s), Number(slider.max));
    slider.value = at;
    slider.setAttribute("aria-valuetext", media(at));
    setText(clock, `${media(at)} of ${media(Number(slider.max))}`);
    const row = rows.find((r) => r[0] >= at) || rows[rows.length - 1];
    setText(score, row ? `score ${row[2].toFixed(2)}, raw ${row[1].toFixed(2)}` : "no scores");
    chart.set({ cursor: at });
    if (film) film.show(at);
  }
  function toggle() {
    playing = !playing;
    setText(play, playing ? "Pause" : "Play");
    let last = performance.now();
    const step = () => {
      if (!playing || closed) return;
      const now = performance.now();
      if (film && film.ready() && now - last >= STEP_S * 900) { move(at + Math.min(1, (now - last) / 1000)); last = now; }
      if (at >= Number(slider.max)) return toggle();
      setTimeout(step, STEP_S * 250);
    };
    if (playing) { if (at >= Number(slider.max)) move(0); step(); }
  }
  function show(data, threshold) {
    rows = data.rows;
    alarms = data.alarms;
    const end = rows.length ? rows[rows.length - 1][0] : 0;
    chart.set({ rows, threshold, alarms: alarms.map((a) => [a.start_s, a.end_s ?? end]) });
    list.replaceChildren(...alarms.slice(0, 60).map((a) => h("button", { type: "button", onclick: () => move(a.start_s) }, `${media(a.start_s)} · ${a.peak_score.toFixed(2)}`)), alarms.length ? "" : h("span", { class: "soft" }, "none"));
    canvas.setAttribute("aria-label", `Scores of ${rows.length} windows, ${alarms.length} alarms`);
    limits();
    move(at);
  }
  async function choose(name) {
    const mine = ++turn, body = await get(`/api/replay/${name}`);
    if (closed || mine !== turn) return;
    setText(why, "");
    insideLabel.hidden = true;
    if (film) film.stop();
    film = body.recorded ? frames(name) : null;
    if (!film) stage.replaceChildren(h("p", { class: "none" }, "This camera is live: its scores can be replayed; only the clips of its alarms hold pictures."));
    show({ rows: body.rows.map(([start, end, raw, smoothed]) => [end, raw, smoothed, 0, start]), alarms: body.alarms.slice().sort((a, b) => a.start_s - b.start_s) }, body.threshold);
  }
  function showOpened(name) {
    const found = opened.events.get(name) || [];
    at = 0;
    show({ rows: opened.scores.get(name) || [], alarms: found }, found.length ? found[0].threshold : null);
  }
  async function take() {
    try {
      for (const chosen of file.files) {
        if (/\.csv$/i.test(chosen.name)) opened.scores = readScores(await chosen.text());
        else if (/\.jsonl$/i.test(chosen.name)) opened.events = readEvents(await chosen.text());
        else opened.video = chosen;
      }
      turn += 1;
      const names = [...new Set([...opened.scores.keys(), ...opened.events.keys()])];
      inside.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
      insideLabel.hidden = names.length < 2;
      if (opened.video) { if (film) film.stop(); film = local(opened.video); } else if (film) { film.stop(); film = null; stage.replaceChildren(h("p", { class: "none" }, "Open the video as well to see pictures.")); }
      setText(why, opened.scores.size || !opened.video ? "" : "A video alone has no scores: run “stream-detector score VIDEO --out scores.csv” and open both files.");
      showOpened(names[0]);
    } catch (error) { setText(why, error.message); }
  }
  const keys = (event) => {
    if (event.target.closest("input, select, textarea, button")) return;
    if (event.key === " ") { event.preventDefault(); toggle(); }
    else if (event.key === "ArrowRight") move(at + (event.shiftKey ? 5 : STEP_S));
    else if (event.key === "ArrowLeft") move(at - (event.shiftKey ? 5 : STEP_S));
  };
  document.addEventListener("keydown", keys);
  if (cameras.length) await choose(pick.value);
  return () => { closed = true; playing = false; if (film) film.stop(); chart.close(); document.removeEventListener("keydown", keys); };
}
