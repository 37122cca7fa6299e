// Scores over media time on a canvas: raw, smoothed, threshold, alarms, a cursor.
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
    return first + Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * (last - first);
  }

  draw() {
    const { canvas, data } = this, scale = devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    colours ||= Object.fromEntries(["score", "raw", "ink", "alarm", "line", "sunk"].map((name) => [name, css(`--${name}`)]));
    const pen = canvas.getContext("2d"), [first, last] = this.range(), pad = 4;
    const x = (s) => ((s - first) / (last - first)) * width, y = (v) => pad + (1 - v) * (height - 2 * pad);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.fillStyle = colours.sunk;
    pen.fillRect(0, 0, width, height);
    pen.strokeStyle = colours.line;
    pen.lineWidth = 1;
    for (const value of [0, 0.5, 1]) line(pen, [[0, y(value)], [width, y(value)]]);
    pen.fillStyle = colours.alarm;
    pen.globalAlpha = 0.25;
    for (const [start, end] of data.alarms) pen.fillRect(x(start), 0, Math.max(2, x(end) - x(start)), height);
    let run = null;
    data.rows.forEach((row, i) => {
      if (row[3] && run === null) run = row[0];
      if (run !== null && (!row[3] || i === data.rows.length - 1)) { pen.fillRect(x(run), 0, Math.max(2, x(row[0]) - x(run)), height); run = null; }
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
      line(pen, [[0, y(data.threshold)], [width, y(data.threshold)]]);
      pen.setLineDash([]);
    }
    if (data.cursor !== null) {
      pen.strokeStyle = colours.ink;
      pen.lineWidth = 2;
      line(pen, [[x(data.cursor), 0], [x(data.cursor), height]]);
    }
  }
}

function line(pen, points) {
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}
