// Regions and schedule of one camera: drawn and chosen here, written into the configuration, in effect by a reload.
import { get, h, post, setText, store } from "./dom.js";
import { Rules } from "./rules.js";
import { Sketch } from "./sketch.js";

// One value as TOML; what is edited here has numbers, texts, lists and flat tables only.
export function toml(value) {
  if (Array.isArray(value)) return `[${value.map(toml).join(", ")}]`;
  if (value && typeof value === "object") return `{ ${Object.entries(value).map(([key, entry]) => `${key} = ${toml(entry)}`).join(", ")} }`;
  return JSON.stringify(value);
}

export async function open(main, context, name) {
  const held = await get(`/api/cameras/${name}/settings`);
  const shapes = [{ name: "Mask", kind: "mask", points: held.mask }, ...held.ignore.map((points, i) => ({ name: `Ignored region ${i + 1}`, kind: "ignore", points }))];
  const text = h("textarea", { readonly: true, rows: 5, "aria-label": "The same as text for the configuration file" });
  const why = h("p", { class: "error", role: "alert" }), told = h("p", { class: "soft", role: "status" });
  const values = () => ({ mask: shapes[0].points, ignore: shapes.slice(1).map((shape) => shape.points).filter((points) => points.length), schedule: rules.value });
  const changed = () => {
    const given = values(), lines = Object.entries(given).filter(([, value]) => value.length).map(([key, value]) => `${key} = ${toml(value)}`);
    text.value = [`[cameras.${name}]`, ...lines].join("\n");
    setText(told, "");
    setText(why, "");
    pick.replaceChildren(...shapes.map((shape, i) => h("option", { value: String(i), selected: i === sketch.at }, shape.name)));
    remove.disabled = sketch.at === 0;
  };
  const rules = new Rules(held.schedule, held.modes, () => changed()), sketch = new Sketch(`/api/picture/${name}.jpg`, shapes, () => changed());
  const pick = h("select", { onchange: () => { sketch.select(Number(pick.value)); changed(); } });
  const choose = (at) => { sketch.select(at); changed(); };
  const add = h("button", { type: "button", onclick: () => { shapes.push({ name: `Ignored region ${shapes.length}`, kind: "ignore", points: [] }); choose(shapes.length - 1); } }, "New ignored region");
  const remove = h("button", { type: "button", onclick: () => { shapes.splice(sketch.at, 1); shapes.slice(1).forEach((shape, i) => { shape.name = `Ignored region ${i + 1}`; }); choose(0); } }, "Delete this region");
  const clear = h("button", { type: "button", onclick: () => { shapes[sketch.at].points.length = 0; choose(sketch.at); } }, "Clear its points");
  const write = h("button", { type: "button", class: "main", disabled: !context.run.may_write || !held.config, onclick: save }, "Save and apply");

  async function save() {
    setText(why, "");
    write.disabled = true;
    try {
      const { written } = await post(`/api/cameras/${name}/settings`, values());
      const event = await post("/api/reload", { by: store.get("by", "") });
      const own = [...(event.reopened?.[name] || []), ...(event.reloaded?.[name] || [])];
      setText(told, `Written to ${written}; ${own.length ? `in effect: ${own.join(", ")}` : "nothing has changed"}${event.restart.length ? `; needs a restart: ${event.restart.join(", ")}` : ""}.`);
    } catch (error) { setText(why, error.message); }
    write.disabled = false;
  }

  const to = (href, label) => h("a", { class: "button", href, "data-link": "" }, label);
  main.replaceChildren(h("div", { class: "row bar" }, h("h1", {}, `Regions and schedule of ${name}`), h("span", { class: "end row" }, to(`/camera/${name}`, "Camera"))), why,
    h("div", { class: "detail" },
      h("section", { class: "panel stack" }, h("h2", {}, "Regions"), h("p", { class: "soft" }, "The mask hides its area from scoring, display and storage. Ignored regions are shown and stored, but not scored."),
        sketch.face, h("div", { class: "row" }, h("label", {}, "Region", pick), add, clear, remove), sketch.list),
      h("div", { class: "stack" }, h("section", { class: "panel stack" }, h("h2", {}, "Schedule"), h("p", { class: "soft" }, `Times of ${held.time_zone}; if several rules apply, the last one wins.`), rules.node),
        h("section", { class: "panel stack" }, h("h2", {}, "Configuration"), h("p", { class: "soft" }, held.config ? (context.run.may_write ? `Saves to ${held.config} and keeps its comments; the camera is reopened if a region changed.` : "Sign in as an operator to write it; the text can be copied.") : "This run has no configuration file: copy the text into one."), text, write, told))));
  changed();
  return () => {};
}
