// One stream of server-sent events for whatever room is open; it comes back by itself.
const listeners = { state: new Set(), picture: new Set(), alarm: new Set(), link: new Set() };
let source = null, wanted = { cameras: [], rate: 0 }, retry = 0, quiet = 0;

export function on(kind, listener) {
  listeners[kind].add(listener);
  return () => listeners[kind].delete(listener);
}

const tell = (kind, value) => listeners[kind].forEach((listener) => listener(value));

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
  const alive = () => { clearTimeout(quiet); quiet = setTimeout(() => tell("link", "no news"), 15000); };
  own.addEventListener("open", () => { tell("link", "live"); alive(); });
  for (const kind of ["state", "picture", "alarm"]) {
    own.addEventListener(kind, (event) => { if (own === source) { alive(); tell(kind, JSON.parse(event.data)); } });
  }
  own.addEventListener("bye", () => lost(own));
  own.addEventListener("error", () => lost(own));
}

function lost(own) {
  if (own !== source) return;
  own.close();
  clearTimeout(quiet);
  tell("link", "lost");
  clearTimeout(retry);
  retry = setTimeout(open, 1500);
}

document.addEventListener("visibilitychange", () => { if (wanted.rate) open(); });
addEventListener("pagehide", () => source && source.close());
