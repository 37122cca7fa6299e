// Another threshold, another smoothing: which alarms there would have been, computed by the detector's own code.
import { get, h, post, setText } from "./dom.js";
import { Chart } from "./chart.js";
import { media } from "./time.js";
import { legend } from "./alarm.js";

export async function open(main, context, _name, query) {
  const cameras = context.run.cameras;
  let timer = 0, asked = 0, closed = false;
  const pick = h("select", { onchange: () => choose() }, cameras.map((c) => h("option", { value: c.name, selected: c.name === query.get("camera") }, c.name)));
  const threshold = h("input", { type: "range", min: 0, max: 1, step: 0.005, oninput: () => soon(), "aria-label": "Threshold" });
  const exact = h("input", { type: "number", min: 0, max: 1, step: 0.005, "aria-label": "Threshold, as a number", oninput: () => { threshold.value = exact.value; soon(true); } });
  const kind = h("select", { onchange: () => soon() }, [["ema", "exponential average"], ["median", "median"], ["none", "none"]].map(([key, text]) => h("option", { value: key }, text)));
  const constant = h("input", { type: "number", min: 0, max: 60, step: 0.1, oninput: () => soon() });
  const span = h("input", { type: "number", min: 1, max: 99, step: 1, oninput: () => soon() });
  const constantLabel = h("label", {}, "Time constant, seconds", constant), spanLabel = h("label", {}, "Number of windows for the median", span);
  const canvas = h("canvas", { class: "chart tall", role: "img", "aria-label": "Scores and alarms" }), chart = new Chart(canvas);
  const message = h("p", { role: "status" }), list = h("div", { class: "table" }), why = h("p", { role: "alert" });
  const write = h("button", { type: "button", class: "main", disabled: !context.run.config, onclick: save }, "Write to the configuration");
  main.replaceChildren(h("div", { class: "row bar" }, h("h1", {}, "Tune"), h("span", { class: "end" }, h("label", {}, "Camera", pick))),
    h("div", { class: "stack" },
      h("section", { class: "panel controls" }, h("label", {}, "Threshold", threshold), h("label", {}, "as a number", exact), h("label", {}, "Smoothing", kind), constantLabel, spanLabel),
      h("section", { class: "panel stack" }, message, canvas, legend(true), list),
      h("section", { class: "panel row" }, write, h("button", { type: "button", onclick: () => choose() }, "Reset to the running settings"),
        h("span", { class: "soft" }, context.run.config ? `${context.run.config}; takes effect at the next start` : "This run has no configuration file; start it with --config FILE.toml to write there."), why)));

  const settings = () => ({ threshold: Number(threshold.value), smoothing: { kind: kind.value, ...(kind.value === "ema" ? { time_constant_s: Number(constant.value) } : kind.value === "median" ? { span: Number(span.value) } : {}) } });
  function choose() {
    const camera = cameras.find((c) => c.name === pick.value);
    threshold.value = exact.value = camera.threshold;
    kind.value = camera.smoothing.kind;
    constant.value = camera.smoothing.time_constant_s;
    span.value = camera.smoothing.span;
    soon();
  }
  function soon(typed) {
    if (!typed) exact.value = threshold.value;
    constantLabel.hidden = kind.value !== "ema";
    spanLabel.hidden = kind.value !== "median";
    setText(why, "");
    clearTimeout(timer);
    timer = setTimeout(compute, 120);
  }
  async function compute() {
    const own = ++asked, now = settings(), name = pick.value;
    try {
      const [body, real] = await Promise.all([post(`/api/tune/${name}`, now), get(`/api/alarms?camera=${name}&limit=200`)]);
      if (own !== asked || closed) return;
      chart.set({ rows: body.points.map(([end, raw, smoothed]) => [end, raw, smoothed, 0]), threshold: now.threshold, alarms: body.alarms.map(([start, , end]) => [start, end]) });
      const many = (n) => `${n} alarm${n === 1 ? "" : "s"}`;
      setText(message, body.windows ? `${many(body.alarms.length)} in ${body.windows} recorded windows with these settings; the journal holds ${real.more ? "more than 200" : many(real.alarms.length)} of this camera.` : "No window of this camera has been recorded yet.");
      canvas.setAttribute("aria-label", `${many(body.alarms.length)} with threshold ${now.threshold}`);
      list.replaceChildren(body.alarms.length ? h("table", {}, h("thead", {}, h("tr", {}, ["from", "to", "reported at", "peak"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, body.alarms.slice(0, 100).map(([start, at, end, peak]) => h("tr", {}, [media(start), media(end), media(at), peak.toFixed(2)].map((text) => h("td", {}, text)))))) : "");
    } catch (error) { if (own === asked) { why.className = "error"; setText(why, error.message); } }
  }
  async function save() {
    try {
      const body = await post(`/api/tune/${pick.value}/write`, settings());
      why.className = "";
      setText(why, `Written to ${body.written}.`);
    } catch (error) { why.className = "error"; setText(why, error.message); }
  }
  if (cameras.length) choose();
  return () => { closed = true; clearTimeout(timer); chart.close(); };
}
