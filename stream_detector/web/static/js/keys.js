// Keys of a view: one letter each, listed in a dialog that "?" opens. They can be turned off, as assistive software may use letters itself.
import { h, store } from "./dom.js";

const LAST = [["?", "show these keys"]];
const active = () => store.get("keys", "on") === "on";

// keys: [key, what it does, action]; without an action it is only listed. Returns { button, close }.
export function listen(keys) {
  const dialog = h("dialog", { class: "panel keys", "aria-labelledby": "keys-title" });
  const off = h("input", { type: "checkbox", checked: active(), onchange: () => store.set("keys", off.checked ? "on" : "off") });
  const row = ([key, text]) => h("tr", {}, h("td", {}, h("kbd", {}, key)), h("td", {}, text));
  dialog.append(h("h2", { id: "keys-title" }, "Keys"),
    h("table", {}, h("tbody", {}, [...keys, ...LAST].map(row))),
    h("label", { class: "check" }, off, "Enable these keys"),
    h("form", { method: "dialog" }, h("button", { class: "main" }, "Close")));
  const show = () => { if (!dialog.isConnected) document.body.append(dialog); dialog.showModal(); };
  const button = h("button", { type: "button", "aria-haspopup": "dialog", "aria-keyshortcuts": "?", onclick: show }, "Keys", h("kbd", {}, "?"));
  const onKey = (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || dialog.open || event.target.closest("input, textarea, select, video")) return;
    const found = active() && keys.find(([key, , action]) => action && key === event.key);
    if (!found && event.key !== "?") return;
    event.preventDefault();
    if (found) found[2]();
    else show();
  };
  document.addEventListener("keydown", onKey);
  return { button, close: () => { document.removeEventListener("keydown", onKey); dialog.remove(); } };
}
