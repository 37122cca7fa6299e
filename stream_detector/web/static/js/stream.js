// One stream of server-sent events for the open view; it comes back by itself. The server says something every
// second: silence means that the link or the detector is dead, whatever the browser thinks of the connection.
import { get } from "./dom.js";

const SILENT_MS = 5000, GIVE_UP_MS = 10000, RETRY_MS = 1500;
const listeners = { state: new Set(), picture: new Set(), alarm: new Set(), link: new Set() };
export const link = { state: "connecting", heard: performance.now() };
let source = null, wanted = { cameras: [], rate: 0 }, retry = 0, quiet = 0;

export function on(kind, listener) {
  listeners[kind].add(listener);
  return () => listeners[kind].delete(listener);
}

const notify = (kind, value) => listeners[kind].forEach((listener) => listener(value));

function become(state) {
  if (link.state === state) return;
  link.state = state;
  notify("link", state);
}

export function watch(cameras, rate) {
  if (source && cameras.join() === wanted.cameras.join() && rate === wanted.rate) return;
  wanted = { cameras, rate };
  open();
}

function open() {
  clearTimeout(retry);
  if (source) source.close();
  const rate = document.hidden ? 0 : wanted.rate;  // pictures only while somebody looks
  const query = new URLSearchParams({ cameras: wanted.cameras.join(","), rate });
  const own = source = new EventSource(`/api/stream?${query}`);
  const alive = () => {
    clearTimeout(quiet);
    quiet = setTimeout(() => {
      become("no news");
      quiet = setTimeout(() => lost(own), GIVE_UP_MS);
    }, SILENT_MS);
  };
  alive();
  for (const kind of ["state", "picture", "alarm"]) {
    own.addEventListener(kind, (event) => {
      if (own !== source) return;
      alive();
      link.heard = performance.now();
      become("live");
      notify(kind, JSON.parse(event.data));
    });
  }
  own.addEventListener("again", () => { if (own === source) open(); });  // no stream lasts for ever
  own.addEventListener("bye", () => lost(own));
  own.addEventListener("error", () => lost(own));
}

function lost(own) {
  if (own !== source) return;
  own.close();
  clearTimeout(quiet);
  become("lost");
  clearTimeout(retry);
  retry = setTimeout(() => {
    get("/api/run").catch(() => {});  // a session that is over leads to the door
    open();
  }, RETRY_MS);
}

document.addEventListener("visibilitychange", () => { if (wanted.rate) open(); });
addEventListener("pagehide", () => source && source.close());
