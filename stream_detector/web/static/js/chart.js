// Scores over media time on a canvas: raw, smoothed, threshold, alarms, a cursor. Tall ones have labelled axes.
import { mediaTicks } from "./axis.js";
import { media } from "./time.js";

const LEFT = 32, BELOW = 20;
let colours = null;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const redraws = new Set();

export function recolour() {
  colours = null;
  redraws.forEach((draw) => draw());
}
export function onRecolour(draw) {
  redraws.add(draw);
  return () => redraws.delete(draw);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);

export class Chart {
  constructor(canvas) {
    this.canvas = canvas;
    this.data = { rows: [], threshold: null, alarms: [], from: null, to: null, cursor: null };
    this.unit = media;  // how a place on the axis is written
    this.axes = canvas.classList.contains("tall");
    this.draw = this.draw.bind(this);
    this.sizes = new ResizeObserver(this.draw);
    this.sizes.observe(canvas);
    redraws.add(this.draw);
  }

  close() {
    this.sizes.disconnect();
    redraws.delete(this.draw);
  }

  // rows: [end_s, raw, smoothed, alarmed]; alarms: [start_s, end_s]
  set(data) {
    Object.assign(this.data, data);
    if (!this.pending) this.pending = requestAnimationFrame(() => { this.pending = 0; this.draw(); });
  }

  range() {
    const { rows, from, to } = this.data;
    const first = from ?? (rows.length ? rows[0][0] : 0), last = to ?? (rows.length ? rows[rows.length - 1][0] : 1);
    return [first, Math.max(last, first + 0.1)];
  }

  timeAt(event) {
    const box = this.canvas.getBoundingClientRect(), [first, last] = this.range();
    const left = this.axes ? LEFT : 0;
    return first + Math.min(1, Math.max(0, (event.clientX - box.left - left) / (box.width - left))) * (last - first);
  }

  draw() {
    const { canvas, data } = this, scale = devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    colours ||= Object.fromEntries(["score", "raw", "ink", "alarm", "line", "sunk", "soft"].map((name) => [name, css(`--${name}`)]));
    const pen = canvas.getContext("2d"), [first, last] = this.range(), pad = 4;
    const left = this.axes ? LEFT : 0, floor = height - (this.axes ? BELOW : 0);
    const x = (s) => left + ((s - first) / (last - first)) * (width - left), y = (v) => pad + (1 - v) * (floor - 2 * pad);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.fillStyle = colours.sunk;
    pen.clearRect(0, 0, width, height);
    pen.fillRect(left, 0, width - left, floor);
    if (this.axes) labels(pen, { first, last, left, floor, width, x, y, unit: this.unit });
    pen.strokeStyle = colours.line;
    pen.lineWidth = 1;
    for (const value of [0, 0.5, 1]) line(pen, [[left, y(value)], [width, y(value)]]);
    pen.fillStyle = colours.alarm;
    pen.globalAlpha = 0.25;
    for (const [start, end] of data.alarms) pen.fillRect(x(start), 0, Math.max(2, x(end) - x(start)), floor);
    let run = null;
    data.rows.forEach((row, i) => {
      if (row[3] && run === null) run = row[0];
      if (run !== null && (!row[3] || i === data.rows.length - 1)) { pen.fillRect(x(run), 0, Math.max(2, x(row[0]) - x(run)), floor); run = null; }
    });
    pen.globalAlpha = 1;
    for (const [column, colour, weight] of [[1, colours.raw, 1], [2, colours.score, 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = weight;
      line(pen, data.rows.map((row) => [x(row[0]), y(row[column])]));
    }
    if (data.threshold !== null) {
      pen.strokeStyle = colours.ink;
      pen.lineWidth = 1;
      pen.setLineDash([5, 4]);
      line(pen, [[left, y(data.threshold)], [width, y(data.threshold)]]);
      pen.setLineDash([]);
    }
    if (data.cursor !== null) {
      pen.strokeStyle = colours.ink;
      pen.lineWidth = 2;
      line(pen, [[x(data.cursor), 0], [x(data.cursor), floor]]);
    }
  }
}

function labels(pen, { first, last, left, floor, width, x, y, unit }) {
  pen.font = "12px sans-serif";
  pen.fillStyle = colours.soft;
  pen.strokeStyle = colours.line;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const value of [0, 0.5, 1]) pen.fillText(value.toFixed(1), left - 5, Math.min(floor - 5, Math.max(6, y(value))));
  pen.textBaseline = "top";
  for (const at of mediaTicks(first, last, Math.max(2, Math.floor((width - left) / 70)))) {
    line(pen, [[x(at), 0], [x(at), floor + 3]]);
    pen.textAlign = x(at) > width - 20 ? "right" : x(at) < left + 16 ? "left" : "center";
    pen.fillText(unit(at), x(at), floor + 5);
  }
}

function line(pen, points) {
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}
