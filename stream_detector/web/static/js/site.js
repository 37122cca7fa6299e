// One camera's site: its verdicts, its promised rate with bounds, the overlays and their reports, and the commands.
import { get, h, post, store } from "./dom.js";
import { brief, long } from "./time.js";
import { chip } from "./alarms.js";

export async function open(main, context, name) {
  let closed = false, timer = 0;
  const why = h("p", { role: "alert", class: "error" }), told = h("p", { role: "status", class: "soft" });
  const body = h("div", { class: "stack" });
  const picker = h("select", { "aria-label": "Camera", onchange: () => context.go(`/site/${picker.value}`) }, context.run.cameras.map((c) => h("option", { value: c.name, selected: c.name === name }, c.name)));
  const act = (label, fields, title) => h("button", { type: "button", title, disabled: !context.run.may_write, onclick: () => command(fields) }, label);
  main.replaceChildren(h("div", { class: "row bar" }, h("h1", {}, `Site memory of ${name}`), h("span", { class: "end" }, picker)), why, told, body);

  async function command(fields) {
    why.textContent = told.textContent = "";
    try {
      const event = await post(`/api/site/${name}/command`, { ...fields, by: store.get("by", "") });
      told.textContent = event.detail || "done";
      await load();
    } catch (error) { why.textContent = error.message; }
  }

  function rate(state) {
    if (!state) return h("p", { class: "soft" }, "Nothing is known yet: the rate is counted in days of scored time.");
    const pair = (key, value) => [h("dt", {}, key), h("dd", {}, value)];
    const number = (value) => (value === null ? "unknown" : value.toPrecision(2));
    return h("dl", { class: "pairs" }, ...pair("wanted", state.wanted_per_day === null ? "no target set" : `at most ${state.wanted_per_day} a day`),
      ...pair("promise", state.wanted_per_day === null ? "–" : state.broken ? "broken (95 % confidence)" : "kept so far"),
      ...pair("false alarms a day", `between ${number(state.lower_per_day)} and ${number(state.upper_per_day)} (95 %, at any time)`),
      ...pair("judged false / not judged", `${state.false} / ${state.unjudged}`), ...pair("scored", `${state.scored_hours.toFixed(1)} h, ${state.days} whole days`));
  }

  function overlays(found) {
    if (!found.overlays.length) return h("p", { class: "soft" }, "No overlay has been fitted for this camera.");
    return h("table", {}, h("thead", {}, h("tr", {}, ["overlay", "made", "gate", ""].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, found.overlays.map((o) => h("tr", {},
        h("td", {}, o.overlay, o.overlay === found.in_service ? h("span", { class: "chip good" }, "in service") : o.overlay === found.shadow ? h("span", { class: "chip warn" }, "shadow") : null),
        h("td", {}, o.made_utc ? brief(new Date(o.made_utc * 1000).toISOString()) : "–"), h("td", {}, o.sentence, o.report ? [" ", h("a", { href: `/api/reports/${o.overlay}`, target: "_blank", rel: "noopener" }, "report")] : null),
        h("td", {}, h("span", { class: "row" }, o.overlay !== found.in_service ? act("Promote", { command: "promote", overlay: o.overlay }, "use from the next window on") : null, act("Shadow", { command: "shadow", overlay: o.overlay, hours: 24 }, "run in parallel for 24 h"))))) ));
  }

  async function load() {
    clearTimeout(timer);
    const found = await get(`/api/site/${name}`);
    if (closed) return;
    const counts = Object.entries((found.memory && found.memory.verdicts) || {}).filter(([, n]) => n);
    body.replaceChildren(
      h("section", { class: "panel stack" }, h("h2", {}, "Promised rate"), rate(found.rate)),
      h("section", { class: "panel stack" }, h("h2", {}, "In service"), h("p", {}, found.in_service ? `overlay ${found.in_service}` : "the bundle alone"), overlays(found),
        h("span", { class: "row" }, act("Adapt now", { command: "adapt" }, "fit a candidate to the verdicts; the model in service stays"), found.in_service ? act("Roll back", { command: "rollback" }, "return to the previous model") : null)),
      h("section", { class: "panel stack" }, h("h2", {}, "Memory"), h("p", { class: "soft" }, !found.kept && !found.memory ? "Nothing is stored for this camera (site.keep is off)." : found.memory ? `${found.memory.hours} h scored; ${found.memory.windows + found.memory.thinned} windows, ${(found.memory.bytes / 1e6).toFixed(1)} MB. Features and scores, no pictures.` : "nothing yet"),
        h("p", {}, counts.map(([word, n]) => `${word} ${n}`).join(", ") || "no alarm has been judged")),
      h("section", { class: "panel stack" }, h("h2", {}, "Verdicts"), found.alarms.length ? h("ul", {}, found.alarms.map((a) => h("li", {}, h("a", { href: `/alarms/${a.key}`, "data-link": "" }, long(a.start_utc)), " ", chip(a), a.verdict && a.verdict.note ? ` “${a.verdict.note}”` : ""))) : h("p", { class: "soft" }, "no alarm yet")));
    why.textContent = found.error || "";
    timer = setTimeout(() => load().catch(() => {}), 30000);
  }
  const off = context.on("alarm", (alarm) => { if (alarm.camera === name) load().catch(() => {}); });
  await load();
  return () => { closed = true; clearTimeout(timer); off(); };
}
