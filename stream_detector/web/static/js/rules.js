// The weekly schedule of a camera as rows: when, in which mode, and what then holds. The last rule that holds counts.
import { h } from "./dom.js";

const DAYS = ["", "mon-fri", "sat,sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const NOTIFY = ["", "low", "medium", "high", "none"];

export class Rules {
  // rules: as in the configuration. modes: that there are. changed(): after every change.
  constructor(rules, modes, changed) {
    this.rules = rules.map((rule) => ({ ...rule }));
    this.modes = modes;
    this.changed = changed;
    this.node = h("div", { class: "stack" });
    this.show();
  }

  get value() { return this.rules; }

  set(rule, key, value) {
    if (value === "" || value === null || (Array.isArray(value) && !value.length)) delete rule[key];
    else rule[key] = value;
    this.changed();
  }

  row(rule, i) {
    const choice = (label, key, words, empty) => {
      const known = words.includes(rule[key] ?? "") ? words : [...words, rule[key]];
      return h("label", {}, label, h("select", { onchange: (event) => this.set(rule, key, event.target.value) }, known.map((word) => h("option", { value: word, selected: word === (rule[key] ?? "") }, word || empty))));
    };
    const time = (label, key) => h("label", {}, label, h("input", { type: "time", value: (rule[key] || "").slice(0, 5), onchange: (event) => this.set(rule, key, event.target.value) }));
    const mode = h("select", { onchange: (event) => this.set(rule, "modes", event.target.value ? event.target.value.split(",") : []) },
      ["", ...new Set([...this.modes, ...((rule.modes || []).length ? [rule.modes.join(",")] : [])])].map((word) => h("option", { value: word, selected: word === (rule.modes || []).join(",") }, word || "any")));
    const muted = rule.mute === true ? "yes" : rule.mute === false ? "no" : "";
    return h("fieldset", { class: "rule" }, h("legend", {}, `Rule ${i + 1}`), choice("Days", "days", DAYS, "any"), time("From", "from"), time("To", "to"), h("label", {}, "Mode", mode),
      h("label", {}, "Threshold", h("input", { type: "number", min: 0, max: 1, step: 0.01, value: rule.threshold ?? "", oninput: (event) => this.set(rule, "threshold", event.target.value === "" ? null : Number(event.target.value)) })),
      h("label", {}, "Mute", h("select", { onchange: (event) => this.set(rule, "mute", { yes: true, no: false }[event.target.value] ?? null) }, ["", "yes", "no"].map((word) => h("option", { value: word, selected: word === muted }, word || "unchanged")))),
      choice("Notify from", "notify", NOTIFY, "unchanged"), h("button", { type: "button", "aria-label": `Remove rule ${i + 1}`, onclick: () => { this.rules.splice(i, 1); this.show(); this.changed(); } }, "Remove"));
  }

  show() {
    this.node.replaceChildren(...this.rules.map((rule, i) => this.row(rule, i)), this.rules.length ? "" : h("p", { class: "soft" }, "No rule: the camera's own threshold holds all the time."),
      h("button", { type: "button", onclick: () => { this.rules.push({ days: "mon-fri", from: "08:00", to: "18:00", mute: true }); this.show(); this.changed(); this.node.querySelector("fieldset:last-of-type select").focus(); } }, "Add a rule"));
  }
}
