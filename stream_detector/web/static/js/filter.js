// Which alarms are wanted: one filter for the list, the review and the address of both.
import { toUtc } from "./time.js";

const NAMES = ["camera", "state", "verdict", "kind", "severity", "since", "until"];
export const VERDICT_WORDS = [["", "all"], ["none", "not judged"], ["any", "judged"], ["true", "true"], ["false", "false"], ["benign", "benign"], ["unsure", "unsure"]];

// The filter of an address; a former address says judged or unjudged in `state`.
export function fromQuery(query) {
  const values = Object.fromEntries(NAMES.map((name) => [name, query.get(name) || ""]));
  const former = { judged: "any", unjudged: "none" }[values.state];
  return former ? { ...values, state: "", verdict: values.verdict || former } : values;
}

const given = (values) => NAMES.filter((name) => values[name]).map((name) => [name, values[name]]);

// For the address of this page: "?camera=gate", or "".
export function toQuery(values) {
  const query = new URLSearchParams(given(values));
  return query.size ? `?${query}` : "";
}

// For the server: times in UTC.
export const toParams = (values) => new URLSearchParams(given(values).map(([name, value]) => [name, name === "since" || name === "until" ? toUtc(value) : value]));

export function describe(values) {
  const words = { none: "not judged", any: "judged", new: "not acknowledged", seen: "acknowledged" };
  return given(values).map(([name, value]) => name === "since" ? `from ${value.replace("T", " ")}` : name === "until" ? `to ${value.replace("T", " ")}`
    : words[value] || (name === "verdict" ? `judged ${value}` : name === "severity" ? `severity ${value}` : value)).join(", ");
}

const STATES = {
  open: (alarm) => alarm.state === "open", ended: (alarm) => alarm.state === "ended",
  new: (alarm) => !alarm.ack, seen: (alarm) => Boolean(alarm.ack),
};

export function matches(alarm, { camera, state, verdict, kind, severity, since, until }) {
  const judged = alarm.verdict ? alarm.verdict.verdict : "none";
  return (!camera || alarm.camera === camera) && (!state || (STATES[state]?.(alarm) ?? true)) && (!kind || alarm.kind === kind) && (!severity || alarm.severity === severity)
    && (!verdict || judged === verdict || (verdict === "any" && judged !== "none"))
    && (!until || alarm.start_utc <= toUtc(until)) && (!since || alarm.start_utc >= toUtc(since));
}
