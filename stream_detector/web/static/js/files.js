// Recordings opened in the browser alone: scores.csv and events.jsonl are read here and sent nowhere.
const COLUMNS = "source,camera,window,start_frame,end_frame,start_s,end_s,raw,smoothed,degraded";

function cells(line) {
  const found = [];
  for (const match of line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)) found.push(match[1] !== undefined ? match[1].replaceAll('""', '"') : match[2]);
  return found;
}

// camera → rows [end_s, raw, smoothed, 0, start_s]
export function readScores(text) {
  const lines = text.split(/\r?\n/);
  if (lines[0] !== COLUMNS) throw new Error("This is not a scores file: the first line must hold the column names that --scores writes.");
  const cameras = new Map();
  for (const line of lines.slice(1)) {
    const row = cells(line);
    if (row.length !== 10) continue;
    const [start, end, raw, smoothed] = row.slice(5, 9).map(Number);
    if (![start, end, raw, smoothed].every(Number.isFinite)) continue;
    if (!cameras.has(row[1])) cameras.set(row[1], []);
    cameras.get(row[1]).push([end, raw, smoothed, 0, start]);
  }
  return cameras;
}

// camera → alarms {id, start_s, end_s, peak_score, threshold}
export function readEvents(text) {
  const alarms = new Map();
  for (const line of text.split("\n")) {
    let event = null;
    try { event = JSON.parse(line); } catch { continue; }
    if (!event || event.schema !== "stream-detector.alarm/1" || typeof event.camera !== "string") continue;
    const key = `${event.camera} ${event.id}`, known = alarms.get(key) || [];
    if (event.type === "start" || !known.length) alarms.set(key, [...known, { peak_score: 0, end_s: null }]);  // a rerun repeats ids
    const alarm = alarms.get(key).at(-1);
    Object.assign(alarm, { id: String(event.id), camera: event.camera, start_s: Number(event.start_s), threshold: Number(event.threshold), peak_score: Math.max(alarm.peak_score, Number(event.peak_score)) });
    if (event.type === "end" && event.end_s !== null) alarm.end_s = Number(event.end_s);
  }
  const cameras = new Map();
  for (const alarm of [...alarms.values()].flat()) cameras.set(alarm.camera, [...(cameras.get(alarm.camera) || []), alarm]);
  return cameras;
}
