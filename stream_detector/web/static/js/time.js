// Times as the viewer reads them: own zone, zone named; media times as minutes and seconds.
const zoned = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
const short = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" });

export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
export const long = (utc) => utc ? zoned.format(new Date(utc)) : "–";
export const brief = (utc) => utc ? short.format(new Date(utc)) : "–";
export const now = () => `${zoned.format(new Date())} · ${zone}`;

export function media(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const tenths = Math.round(seconds * 10), whole = Math.floor(tenths / 10);
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  const rest = `${String(whole % 60).padStart(2, "0")}.${tenths % 10}`;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function span(alarm) {
  if (alarm.end_s === null) return alarm.state === "open" ? "going on" : "end not seen";
  return `${Math.max(0, alarm.end_s - alarm.start_s).toFixed(1)} s`;
}

// How long ago, in few characters; from a minute on in whole minutes, from two hours on in hours.
export function ago(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 60 ? `${whole} s` : whole < 7200 ? `${Math.floor(whole / 60)} min` : `${Math.floor(whole / 3600)} h`;
}

// A datetime-local value (viewer's zone) as RFC 3339 UTC.
export const toUtc = (local) => local ? new Date(local).toISOString() : "";
