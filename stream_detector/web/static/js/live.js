// The grid of cameras, and one camera large.
import { h, setText, store } from "./dom.js";
import { Chart } from "./chart.js";

const SIZES = [4, 9, 16, 36, 64];
const KEEP = 120;
const percent = (share) => share === null ? "–" : share >= 0.9995 ? "100 %" : `${(Math.floor(share * 1000) / 10).toFixed(1)} %`;
const WORDS = { connecting: "connecting", online: "online", stalled: "stalled", offline: "offline", ended: "ended", failed: "failed" };

class Card {
  constructor(name, large) {
    this.name = name;
    this.rows = [];
    this.img = h("img", { alt: `Last picture of ${name}`, hidden: true, decoding: "async" });
    this.none = h("span", { class: "none" }, "no picture yet");
    this.chip = h("span", { class: "chip" }, "connecting");
    this.canvas = h("canvas", { class: "chart", role: "img", "aria-label": `Scores of ${name}` });
    this.trouble = h("p", { class: "trouble" });
    this.values = {};
    const fact = (key, label) => h("div", {}, h("dt", {}, label), this.values[key] = h("dd", {}, "–"));
    const facts = h("dl", { class: "facts" }, fact("score", "score"), fact("fps", "fps"), fact("coverage", "coverage"), fact("drops", "drops"), fact("lag", "latency"),
      large ? [fact("threshold", "threshold"), fact("alarms", "alarms"), fact("reconnects", "reconnects"), fact("scored", "windows"), fact("source", "source")] : []);
    this.node = h("article", { class: "card panel", "aria-label": `Camera ${name}` },
      h("div", { class: "face" }, this.img, this.none),
      h("div", { class: "name" }, h("h2", {}, h("a", { href: `/camera/${name}`, "data-link": "" }, name)), this.chip),
      h("div", { class: "plot" }, this.canvas), facts, this.trouble);
    this.chart = new Chart(this.canvas);
  }

  state(state, rows) {
    if (rows.length) {
      if (this.rows.length && rows[0][0] < this.rows[this.rows.length - 1][0]) this.rows = [];
      this.rows = this.rows.concat(rows).slice(-KEEP);
      this.chart.set({ rows: this.rows });
    }
    this.chart.set({ threshold: state.threshold });
    const last = this.rows[this.rows.length - 1];
    const values = {
      score: last ? last[2].toFixed(2) : "–", fps: state.fps.toFixed(1), coverage: percent(state.coverage), drops: String(state.drops),
      lag: state.lag_ms === null ? "–" : state.lag_ms < 10000 ? `${Math.round(state.lag_ms)} ms` : `${Math.round(state.lag_ms / 1000)} s`,
      threshold: state.threshold === null ? "–" : state.threshold.toFixed(2), alarms: String(state.alarms), reconnects: String(state.reconnects),
      scored: String(state.scored), source: state.source,
    };
    for (const [key, node] of Object.entries(this.values)) setText(node, values[key]);
    const bad = state.trouble !== "";
    this.node.classList.toggle("alarmed", state.alarmed);
    this.node.classList.toggle("troubled", bad);
    setText(this.chip, state.alarmed ? "ALARM" : WORDS[state.state] || state.state);
    this.chip.className = `chip ${state.alarmed ? "alarm" : bad ? "warn" : state.state === "online" ? "good" : ""}`;
    setText(this.trouble, bad ? `⚠ ${state.trouble}` : "");
    this.trouble.classList.toggle("is", bad);
    this.trouble.title = state.trouble;
    const label = `Scores of ${this.name}: now ${values.score}, threshold ${values.threshold}${state.alarmed ? ", alarm" : ""}`;
    if (this.canvas.getAttribute("aria-label") !== label) this.canvas.setAttribute("aria-label", label);
  }

  picture(jpeg) {
    this.img.src = `data:image/jpeg;base64,${jpeg}`;
    if (this.img.hidden) { this.img.hidden = false; this.none.hidden = true; }
  }

  close() { this.chart.close(); }
}

function follow(context, cards, summary) {
  const offs = [
    context.on("state", ({ run, cameras }) => {
      if (summary) summary(run);
      for (const { state, rows } of cameras) cards.get(state.name)?.state(state, rows);
    }),
    context.on("picture", ({ camera, jpeg }) => cards.get(camera)?.picture(jpeg)),
  ];
  return () => { offs.forEach((off) => off()); cards.forEach((card) => card.close()); context.watch([], 0); };
}

export function open(main, context, _name, query) {
  const names = context.run.cameras.map((camera) => camera.name);
  let size = Number(store.get("page-size", "16")), page = Math.max(0, Number(query.get("page") || 1) - 1 | 0);
  if (!SIZES.includes(size)) size = 16;
  const pages = Math.max(1, Math.ceil(names.length / size));
  page = Math.min(page, pages - 1);
  const shown = names.slice(page * size, (page + 1) * size);
  const cards = new Map(shown.map((name) => [name, new Card(name)]));
  const told = h("p", { class: "summary", "aria-live": "off" });
  const rates = [["0", "no pictures"], ["1", "1 a second"], ["2", "2 a second"], ["5", "5 a second"]];
  const rate = store.get("rate", shown.length > 9 ? "1" : "2");
  const pick = (label, options, value, change) => h("label", {}, label, h("select", { onchange: (event) => change(event.target.value) },
    options.map(([key, text]) => h("option", { value: key, selected: key === value }, text))));
  const grid = h("div", { class: shown.length === 1 ? "grid one" : "grid" }, [...cards.values()].map((card) => card.node));
  grid.style.setProperty("--cell", shown.length === 1 ? "min(100%, 900px)" : shown.length <= 4 ? "420px" : shown.length <= 16 ? "300px" : "220px");
  const turn = (to, text) => h("a", { class: "button", href: `/?page=${to + 1}`, "data-link": "" }, text);
  main.replaceChildren(
    h("div", { class: "row bar" }, h("h1", {}, "Live"), told, h("span", { class: "end row" },
      pick("Pictures", rates, rate, (value) => { store.set("rate", value); context.watch(shown, Number(value)); }),
      names.length > SIZES[0] ? pick("A page", SIZES.map((n) => [String(n), `${n} cameras`]), String(size), (value) => { store.set("page-size", value); context.go("/", true); }) : null)),
    grid,
    pages > 1 ? h("div", { class: "pager" }, page ? turn(page - 1, "← back") : null, `page ${page + 1} of ${pages}`, page < pages - 1 ? turn(page + 1, "on →") : null) : "");
  const summary = (run) => {
    const other = (list) => list.filter((name) => !cards.has(name));
    const parts = [`${run.cameras} camera${run.cameras === 1 ? "" : "s"}`, run.alarmed.length ? `${run.alarmed.length} in alarm` : "no alarm", run.trouble.length ? `${run.trouble.length} in trouble` : "",
      run.p95_ms === null ? "" : `latency ${run.p50_ms < 1000 ? `${Math.round(run.p50_ms)} ms` : `${(run.p50_ms / 1000).toFixed(1)} s`} (p95 ${run.p95_ms < 1000 ? `${Math.round(run.p95_ms)} ms` : `${(run.p95_ms / 1000).toFixed(1)} s`})`,
      other(run.alarmed).length ? `alarm on another page: ${other(run.alarmed).slice(0, 5).join(", ")}` : "", run.ended ? "all recordings have ended" : ""];
    setText(told, parts.filter(Boolean).join(" · "));
  };
  context.watch(shown, Number(rate));
  return follow(context, cards, summary);
}

export function openOne(main, context, name) {
  if (!context.run.cameras.some((camera) => camera.name === name)) {
    main.replaceChildren(h("p", {}, `There is no camera “${name}”.`));
    return null;
  }
  const card = new Card(name, true);
  const link = (href, text) => h("a", { class: "button", href, "data-link": "" }, text);
  main.replaceChildren(h("div", { class: "row bar" }, h("h1", {}, name), h("span", { class: "end row" },
    link("/", "All cameras"), link(`/alarms?camera=${name}`, "Its alarms"), link(`/replay?camera=${name}`, "Replay"), link(`/tune?camera=${name}`, "Tune"))),
    h("div", { class: "grid one" }, card.node));
  context.watch([name], 5);
  return follow(context, new Map([[name, card]]));
}
