// The frame around the views: addresses, theme, sound, connection state, notices of new alarms.
import { $, get, h, post, setText, store } from "./dom.js";
import { link, on, watch } from "./stream.js";
import { recolour } from "./chart.js";
import { ago, now } from "./time.js";
import * as live from "./live.js";
import * as alarms from "./alarms.js";
import * as alarm from "./alarm.js";
import * as replay from "./replay.js";
import * as edit from "./edit.js";
import * as timeline from "./timeline.js";
import * as tune from "./tune.js";
import * as site from "./site.js";

const views = [
  [/^\/$/, "live", "Live", live.open],
  [/^\/camera\/([a-z0-9_-]+)$/, "live", "Camera", live.openOne],
  [/^\/camera\/([a-z0-9_-]+)\/edit$/, "edit", "Regions and schedule", edit.open],
  [/^\/alarms$/, "alarms", "Alarms", alarms.open],
  [/^\/alarms\/([0-9a-f]{32}(?:-[0-9a-f]{16})?)$/, "alarms", "Alarm", alarm.open],
  [/^\/replay$/, "replay", "Replay", replay.open],
  [/^\/timeline$/, "timeline", "Timeline", timeline.open],
  [/^\/tune$/, "tune", "Tune", tune.open],
  [/^\/site\/([a-z0-9_-]+)$/, "site", "Site", site.open],
];
const context = { run: null, go, watch, on, unseen };
let leave = null, title = "stream-detector", fresh = 0, generation = 0;

async function enter(focus) {
  const own = ++generation;
  if (leave) leave();
  leave = null;
  const found = views.map(([pattern, view, name, open]) => ({ view, name, open, match: location.pathname.match(pattern) })).find((r) => r.match);
  const main = $("main");
  document.querySelectorAll("nav a").forEach((link) => {
    if (found && link.dataset.view === found.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  title = `${found ? found.match[1] && found.view === "live" ? found.match[1] : found.name : "Not found"} · stream-detector`;
  showTitle();
  if (!found) return main.replaceChildren(h("p", {}, "There is no such page."));
  try {
    const left = await found.open(main, context, found.match[1], new URLSearchParams(location.search));
    if (own === generation) leave = left;
    else if (left) left();
  } catch (error) {
    main.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
  }
  if (focus) main.focus({ preventScroll: true });
}

function go(path, replace) {
  history[replace ? "replaceState" : "pushState"](null, "", path);
  scrollTo(0, 0);
  enter(true);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-link]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});
addEventListener("popstate", () => enter(true));

function showTitle() {
  document.title = fresh ? `(${fresh}) ALARM · ${title}` : title;
}
const seen = () => { if (!document.hidden && fresh) { fresh = 0; showTitle(); } };
document.addEventListener("visibilitychange", () => setTimeout(seen, 1500));
document.addEventListener("pointerdown", seen);
document.addEventListener("keydown", seen);

function unseen(number) {
  setText($("unseen"), String(number));
  $("unseen").hidden = !number;
  $("unseen").setAttribute("aria-label", `${number} not acknowledged`);
}

// sound: only if the viewer has turned it on, because browsers block it otherwise
let audio = null;
function beep() {
  if (store.get("sound", "off") !== "on") return;
  audio ||= new AudioContext();
  [0, 0.28].forEach((after) => {
    const tone = audio.createOscillator(), gain = audio.createGain(), at = audio.currentTime + after;
    tone.frequency.value = 880;
    gain.gain.setValueAtTime(0.0001, at);
    gain.gain.exponentialRampToValueAtTime(0.2, at + 0.02);
    gain.gain.exponentialRampToValueAtTime(0.0001, at + 0.22);
    tone.connect(gain).connect(audio.destination);
    tone.start(at);
    tone.stop(at + 0.25);
  });
}
function showSound() {
  const is = store.get("sound", "off") === "on";
  setText($("sound"), is ? "Sound on" : "Sound off");
  $("sound").setAttribute("aria-pressed", is);
}
$("sound").addEventListener("click", () => { store.set("sound", store.get("sound", "off") === "on" ? "off" : "on"); showSound(); beep(); });

function showTheme() {
  const theme = store.get("theme", "auto");
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  setText($("theme"), `Theme: ${theme}`);
  recolour();
}
$("theme").addEventListener("click", () => { store.set("theme", { auto: "light", light: "dark", dark: "auto" }[store.get("theme", "auto")]); showTheme(); });
$("leave").addEventListener("click", async () => {
  if (context.run && (context.run.closed || context.run.may_write)) await post("/logout", {});
  location.assign("/login");
});

// the banner: shown when the page cannot show the current state
let head = null, decided = 0;
const TEXTS = {
  lost: "The connection to the detector is lost. This page shows old data and no new alarms.",
  "no news": "The detector sends nothing. This page shows old data and no new alarms.",
  hangs: "The detector hangs. No alarm can start or end until somebody restarts it.",
};
function problem() {
  if (link.state === "lost" || link.state === "no news") return link.state;
  return head && !head.live ? "hangs" : "";
}
function showBanner() {
  const what = problem();
  setText($("banner-text"), TEXTS[what] || "");
  const since = what === "hangs" ? decided : link.heard;
  setText($("banner-time"), what ? `${what === "hangs" ? "Last decision" : "Last message"} ${ago((performance.now() - since) / 1000)} ago.` : "");
  $("banner").hidden = !what;
  document.body.classList.toggle("stale", what !== "");
}
on("state", ({ run }) => {
  head = run;
  decided = performance.now() - (run.decided_age_s || 0) * 1000;
  showBanner();
  if (context.run && isOther(run)) renew();
});
on("link", (state) => {
  const words = { live: "connected", lost: "connection lost", "no news": "no data" };
  setText($("link"), words[state]);
  $("link").className = `link ${state === "live" ? "on" : "off"}`;
  showBanner();
  if (state === "live") get("/api/alarms?limit=1").then((body) => unseen(body.unseen)).catch(() => {});
});
const isOther = (run) => run.epoch !== context.run.epoch || run.roster !== context.run.roster;
async function renew() {  // another run answers, or a reload brought other cameras
  const run = await get("/api/run").catch(() => null);
  if (!run || !isOther(run)) return;
  const restarted = run.epoch !== context.run.epoch;
  context.run = run;
  showRun();
  if (restarted || /^\/(camera\/[^/]+)?$/.test(location.pathname)) await enter(false);  // elsewhere somebody may be writing a note
}

const known = new Set();
let hide = 0;
on("alarm", (event) => {
  get("/api/alarms?limit=1").then((body) => unseen(body.unseen)).catch(() => {});
  if (event.state !== "open" || event.ack || known.has(event.key)) return;
  known.add(event.key);
  if (document.hidden) fresh += 1;
  showTitle();
  beep();
  $("toast").replaceChildren("Alarm: ", h("a", { href: `/alarms/${event.key}`, "data-link": "" }, `${event.camera}, score ${event.peak_score.toFixed(2)}`));
  $("toast").hidden = false;
  clearTimeout(hide);
  hide = setTimeout(() => { $("toast").hidden = true; }, 8000);
});

function showRun() {
  const run = context.run;
  unseen(run.unseen);
  $("leave").hidden = !run.closed && !run.can_sign_in;
  setText($("leave"), run.closed || run.may_write ? "Sign out" : "Sign in");
  setText($("runinfo"), `${run.engine} · model ${run.bundle}${run.rendered ? " · rendered demo, not a camera" : ""}`);
}

async function begin() {
  showTheme();
  showSound();
  const clock = () => { setText($("clock"), now()); showBanner(); };
  clock();
  setInterval(clock, 1000);
  context.run = await get("/api/run");
  showRun();
  watch([], 0);
  await enter(false);
}
begin().catch((error) => $("main").replaceChildren(h("p", { class: "error", role: "alert" }, error.message)));
