// The grid of cameras, and one camera large.
import { h, setText, store } from "./dom.js";
import { Chart } from "./chart.js";
import { ago } from "./time.js";
import { link } from "./stream.js";
import { reloadTools } from "./reload.js";

const SIZES = [4, 9, 16, 36, 64];
const KEEP = 120;
const percent = (share) => share === null ? "–" : share >= 0.9995 ? "100 %" : `${(Math.floor(share * 1000) / 10).toFixed(1)} %`;
const DEAD = ["offline", "stalled", "failed"];
const OLD_S = 10;      // an online camera whose picture is older is shown as old
const STAY_MS = 10000;  // how long a camera stays in front after its alarm
const WORDS = { connecting: "connecting", online: "online", stalled: "stalled", offline: "offline", ended: "ended", failed: "failed" };

class Card {
  constructor(name, large) {
    this.name = name;
    this.rows = [];
    this.img = h("img", { alt: `Last picture of ${name}`, hidden: true, decoding: "async" });
    this.none = h("span", { class: "none" }, "no picture yet");
    this.age = h("span", { class: "age", hidden: true });
    this.face = h("div", { class: "face" }, this.img, this.none, this.age);
    this.chip = h("span", { class: "chip" }, "connecting");
    this.now = null;       // the newest state
    this.live = true;      // whether the detector decides
    this.pictured = null;  // when the picture shown came, by this clock
    this.canvas = h("canvas", { class: "chart", role: "img", "aria-label": `Scores of ${name}` });
    this.problem = h("p", { class: "problem" });
    this.values = {};
    const fact = (key, label) => h("div", {}, h("dt", {}, label), this.values[key] = h("dd", {}, "–"));
    const facts = h("dl", { class: "facts" }, fact("score", "score"), fact("fps", "fps"), fact("coverage", "coverage"), fact("drops", "drops"), fact("lag", "latency"),
      large ? [fact("threshold", "threshold"), fact("alarms", "alarms"), fact("reconnects", "reconnects"), fact("scored", "windows scored"), fact("source", "source")] : []);
    this.node = h("article", { class: "card panel", "aria-label": `Camera ${name}` },
      this.face,
      h("div", { class: "name" }, h("h2", {}, h("a", { href: `/camera/${name}`, "data-link": "" }, name)), this.chip),
      h("div", { class: "plot" }, this.canvas), facts, this.problem);
    this.chart = new Chart(this.canvas);
  }

  state(state, rows) {
    this.now = state;
    if (state.picture_age_s !== null) this.pictured = performance.now() - state.picture_age_s * 1000;
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
    const bad = state.problem !== "";
    this.node.classList.toggle("has-problem", bad);
    setText(this.problem, bad ? `⚠ ${state.problem}` : "");
    this.problem.classList.toggle("is", bad);
    this.problem.title = state.problem;
    const label = `Scores of ${this.name}: now ${values.score}, threshold ${values.threshold}${state.alarmed ? ", alarm" : ""}`;
    if (this.canvas.getAttribute("aria-label") !== label) this.canvas.setAttribute("aria-label", label);
  }

  // show what is current: nothing is while the connection or the detector is dead
  show() {
    const state = this.now, unknown = link.state === "lost" || link.state === "no news" ? "unknown" : this.live ? "" : "not monitored";
    const dead = state !== null && DEAD.includes(state.state), age = this.pictured === null ? null : (performance.now() - this.pictured) / 1000;
    const late = state !== null && state.picture_age_s !== null && state.picture_age_s >= OLD_S && state.state !== "ended";
    const old = unknown !== "" || dead || late, alarmed = state !== null && state.alarmed;
    this.node.classList.toggle("alarmed", alarmed && !unknown);
    this.node.classList.toggle("dead", old);
    this.face.classList.toggle("old", old);
    const word = state === null ? "connecting" : WORDS[state.state] || state.state;
    setText(this.chip, unknown ? (alarmed ? "was in alarm" : unknown) : alarmed ? "ALARM" : word);
    this.chip.className = `chip ${alarmed && !unknown ? "alarm" : old || (state !== null && state.problem) ? "warn" : word === "online" ? "good" : ""}`;
    const shown = !this.img.hidden;
    setText(this.age, !shown || age === null ? "" : old ? (unknown === "not monitored" && age < OLD_S ? unknown : `last picture ${ago(age)} ago`) : word === "ended" ? "ended" : "");
    this.age.hidden = this.age.textContent === "";
    if (!shown) setText(this.none, dead || unknown ? "no picture" : "no picture yet");
  }

  picture(jpeg) {
    this.pictured = performance.now();
    this.img.src = `data:image/jpeg;base64,${jpeg}`;
    if (this.img.hidden) { this.img.hidden = false; this.none.hidden = true; }
  }

  close() { this.chart.close(); }
}

function follow(context, cards, summary) {
  const showAll = () => cards.forEach((card) => card.show());
  const offs = [
    context.on("state", ({ run, cameras }) => {
      for (const { state, rows } of cameras) cards.get(state.name)?.state(state, rows);
      if (summary) summary(run);
      cards.forEach((card) => { card.live = run.live; card.show(); });
    }),
    context.on("picture", ({ camera, jpeg }) => { const card = cards.get(camera); if (card) { card.picture(jpeg); card.show(); } }),
    context.on("link", () => { if (summary) summary(null); showAll(); }),
  ];
  const clock = setInterval(showAll, 1000);
  return () => { clearInterval(clock); offs.forEach((off) => off()); cards.forEach((card) => card.close()); context.watch([], 0); };
}

// Cameras in the order of the configuration, but those in alarm first; they stay in front for a while when it is over.
class Order {
  constructor(names) {
    this.names = names;
    this.front = new Map();
  }

  take(alarmed) {
    const now = performance.now(), is = new Set(alarmed);
    for (const name of alarmed) this.front.set(name, Infinity);
    for (const [name, until] of this.front) {
      if (is.has(name)) continue;
      if (until === Infinity) this.front.set(name, now + STAY_MS);
      else if (until < now) this.front.delete(name);
    }
    return [...this.front.keys(), ...this.names.filter((name) => !this.front.has(name))];
  }
}

export function open(main, context, _name, query) {
  const names = context.run.cameras.map((camera) => camera.name), order = new Order(names);
  let size = Number(store.get("page-size", "16")), page = Math.max(0, Number(query.get("page") || 1) - 1 | 0);
  if (!SIZES.includes(size)) size = 16;
  const pages = Math.max(1, Math.ceil(names.length / size));
  page = Math.min(page, pages - 1);
  const cards = new Map(), many = Math.min(size, names.length);
  const message = h("p", { class: "summary", "aria-live": "off" });
  const rates = [["0", "no pictures"], ["1", "1 a second"], ["2", "2 a second"], ["5", "5 a second"]];
  let rate = store.get("rate", many > 9 ? "1" : "2");
  const pick = (label, options, value, change) => h("label", {}, label, h("select", { onchange: (event) => change(event.target.value) },
    options.map(([key, text]) => h("option", { value: key, selected: key === value }, text))));
  const grid = h("div", { class: many === 1 ? "grid one" : "grid" });
  grid.style.setProperty("--cell", many === 1 ? "min(100%, 900px)" : many <= 4 ? "420px" : many <= 16 ? "300px" : "220px");
  const turn = (to, text) => h("a", { class: "button", href: `/?page=${to + 1}`, "data-link": "" }, text);
  const look = () => context.watch(names.filter((name) => cards.has(name)), Number(rate));

  // put the cards of this page into their order; only those that are out of place move
  function arrange(alarmed) {
    const shown = order.take(alarmed).slice(page * size, (page + 1) * size), focused = document.activeElement;
    const gone = [...cards.keys()].filter((name) => !shown.includes(name)), come = shown.filter((name) => !cards.has(name));
    for (const name of gone) { cards.get(name).close(); cards.get(name).node.remove(); cards.delete(name); }
    for (const name of come) cards.set(name, new Card(name));
    shown.forEach((name, place) => {
      const node = cards.get(name).node;
      if (grid.children[place] !== node) grid.insertBefore(node, grid.children[place] || null);
    });
    if (focused !== document.activeElement && grid.contains(focused)) focused.focus({ preventScroll: true });
    if (gone.length || come.length) look();
  }

  const [reload, reloaded] = reloadTools(context);
  main.replaceChildren(
    h("div", { class: "row bar" }, h("h1", {}, "Live"), message, h("span", { class: "end row" }, reload,
      pick("Pictures", rates, rate, (value) => { rate = value; store.set("rate", value); look(); }),
      names.length > SIZES[0] ? pick("Per page", SIZES.map((n) => [String(n), `${n} cameras`]), String(size), (value) => { store.set("page-size", value); context.go("/", true); }) : null), reloaded),
    grid,
    pages > 1 ? h("div", { class: "pager" }, page ? turn(page - 1, "← previous") : null, `page ${page + 1} of ${pages}`, page < pages - 1 ? turn(page + 1, "next →") : null) : "");
  const latency = (ms) => ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
  const summary = (run) => {
    if (run === null) {
      if (link.state !== "live") setText(message, "alarm state unknown");
      return;
    }
    arrange(run.alarmed);
    const other = run.alarmed.filter((name) => !cards.has(name));
    const alarm = !run.live ? "alarm state unknown" : run.alarmed.length ? `${run.alarmed.length} in alarm` : run.with_problem.length ? "no alarm on the working cameras" : "no alarm";
    const parts = [`${run.cameras} camera${run.cameras === 1 ? "" : "s"}`, alarm, run.with_problem.length ? `${run.with_problem.length} with a problem` : "",
      run.p95_ms === null ? "" : `latency ${latency(run.p50_ms)} (p95 ${latency(run.p95_ms)})`,
      other.length ? `alarm on another page: ${other.slice(0, 5).join(", ")}` : "", run.ended ? "all recordings have ended" : ""];
    setText(message, parts.filter(Boolean).join(" · "));
  };
  const leave = follow(context, cards, summary);
  arrange([]);
  return leave;
}

export function openOne(main, context, name) {
  if (!context.run.cameras.some((camera) => camera.name === name)) {
    main.replaceChildren(h("p", {}, `There is no camera “${name}”.`));
    return null;
  }
  const card = new Card(name, true);
  const to = (href, text) => h("a", { class: "button", href, "data-link": "" }, text);
  main.replaceChildren(h("div", { class: "row bar" }, h("h1", {}, name), h("span", { class: "end row" },
    to("/", "All cameras"), to(`/alarms?camera=${name}`, "Alarms"), to(`/timeline?camera=${name}`, "Timeline"), to(`/replay?camera=${name}`, "Replay"), to(`/tune?camera=${name}`, "Tune"), to(`/camera/${name}/edit`, "Regions and schedule"), to(`/site/${name}`, "Site"))),
    h("div", { class: "grid one" }, card.node));
  context.watch([name], 5);
  return follow(context, new Map([[name, card]]));
}
