// From one alarm to the next of a filter: the bar over an alarm, and what happens after a verdict.
import { get, h, setText, store } from "./dom.js";
import { describe, fromQuery, toParams, toQuery } from "./filter.js";

const REFRESH_MS = 2000;  // new alarms change the counts at most so often

export class Review {
  // id: the key of the alarm shown.
  constructor(context, id, query) {
    this.context = context;
    this.id = id;
    this.values = fromQuery(query);
    this.found = { newer: null, older: null, newer_count: 0, older_count: 0 };
    this.place = h("span", { class: "soft place", role: "status" });
    this.newer = h("button", { type: "button", disabled: true, "aria-keyshortcuts": "k", onclick: () => this.go("newer") }, "‹ Newer", h("kbd", {}, "k"));
    this.older = h("button", { type: "button", disabled: true, "aria-keyshortcuts": "j", onclick: () => this.go("older") }, "Older ›", h("kbd", {}, "j"));
    this.onward = h("input", { type: "checkbox", checked: store.get("go-on", "off") === "on", onchange: () => store.set("go-on", this.onward.checked ? "on" : "off") });
    this.node = h("nav", { class: "review", "aria-label": "Review" }, this.newer, this.place, this.older,
      context.run.may_write ? h("label", { class: "check" }, this.onward, "Show the next alarm after a verdict") : null);
    this.off = context.on("alarm", () => { this.timer ||= setTimeout(() => { this.timer = 0; this.load().catch(() => {}); }, REFRESH_MS); });
  }

  // The address of the list that this review goes through.
  get list() { return `/alarms${toQuery(this.values)}`; }

  async load() {
    const found = await get(`/api/alarms/${this.id}/around?${toParams(this.values)}`);
    this.found = found;
    this.newer.disabled = !found.newer;
    this.older.disabled = !found.older;
    const what = describe(this.values);
    setText(this.place, `${found.newer_count} newer, ${found.older_count} older${what ? ` · ${what}` : ""}`);
  }

  go(side) {
    const key = this.found[side];
    if (key) this.context.go(`/alarms/${key}${toQuery(this.values)}`);
    else setText(this.place, `No ${side} alarm${describe(this.values) ? ` matches: ${describe(this.values)}` : ""}`);
  }

  // After a verdict: on to the next one, if that is wanted and there is one.
  judged() {
    const side = this.found.older ? "older" : "newer";
    if (this.onward.checked && this.found[side]) this.go(side);
  }

  close() {
    clearTimeout(this.timer);
    this.off();
  }
}
