// "Read the configuration again": cameras that came, went or changed, without a restart. For operators.
import { h, post, setText, store } from "./dom.js";

const SHOWN_MS = 30000;  // the view is drawn anew when the cameras change: the answer stays so long
let told = { text: "", error: false, at: -Infinity }, pressed = false;

function describe(event) {
  const list = (names) => names.join(", ");
  const keyed = (of) => Object.entries(of || {}).map(([name, keys]) => `${name} (${keys.join(", ")})`);
  const parts = [["added", event.added || []], ["removed", event.removed || []], ["opened again", keyed(event.reopened)], ["in effect", keyed(event.reloaded)], ["needs a restart", event.restart || []]];
  const found = parts.filter(([, names]) => names.length).map(([word, names]) => `${word}: ${list(names)}`);
  return found.join(" · ") || "The configuration has not changed.";
}

// Returns [button, message], or nothing where there is no configuration to read or no right to say so.
export function reloadTools(context) {
  if (!context.run.may_write || !context.run.config) return [];
  const message = h("p", { class: "soft reloaded", role: "status" });
  const show = () => {
    setText(message, performance.now() - told.at < SHOWN_MS ? told.text : "");
    message.classList.toggle("error", told.error);
  };
  const button = h("button", { type: "button", title: `Read ${context.run.config} again; unchanged cameras keep running`, onclick: async () => {
    button.disabled = pressed = true;
    try { told = { text: describe(await post("/api/reload", { by: store.get("by", "") })), error: false, at: performance.now() }; } catch (error) { told = { text: error.message, error: true, at: performance.now() }; }
    button.disabled = false;
    show();
    button.focus();
  } }, "Reload cameras");
  show();
  if (pressed) { pressed = false; requestAnimationFrame(() => button.focus()); }
  return [button, message];
}
