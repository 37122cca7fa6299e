// The timeline's drawing: scores of days in bins, alarms, what was recorded, and where nothing was scored.
import { drawAxes } from "./axis.js";
import { onRecolour } from "./chart.js";

const LANE = 12, GAP = 6, LEFT = 34, BELOW = 26;

export class TimeChart {
  constructor(canvas) {
    this.canvas = canvas;
    this.data = null;
    this.cursor = null;
    this.draw = this.draw.bind(this);
    this.sizes = new ResizeObserver(this.draw);
    this.sizes.observe(canvas);
    this.off = onRecolour(this.draw);
  }

  close() {
    this.sizes.disconnect();
    this.off();
  }

  // data: of /api/timeline, with from and to in ms.
  set(data, cursor) {
    this.data = data;
    this.cursor = cursor;
    this.draw();
  }

  timeAt(event) {
    const box = this.canvas.getBoundingClientRect(), share = (event.clientX - box.left - LEFT) / (box.width - LEFT - 8);
    return this.data.from + Math.min(1, Math.max(0, share)) * (this.data.to - this.data.from);
  }

  draw() {
    const { canvas, data } = this, scale = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!data || !width || !height) return;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const pen = canvas.getContext("2d"), { from, to } = data;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const area = { left: LEFT, top: 6, width: width - LEFT - 8, height: height - 6 - BELOW - 2 * (LANE + GAP) };
    const lanes = { ...area, height: area.height + 2 * (LANE + GAP) };
    const x = (ms) => LEFT + ((ms - from) / (to - from)) * area.width, y = (v) => area.top + (1 - v) * area.height;
    const each = data.bin_s * 1000, wide = Math.max(1, (each / (to - from)) * area.width);
    pen.fillStyle = colour("sunk");
    pen.fillRect(area.left, area.top, area.width, area.height);
    data.bins.forEach((bin, i) => {
      if (bin) return;
      pen.fillStyle = colour("line");  // nothing was scored
      pen.fillRect(x(from + i * each), area.top, wide + 0.5, area.height);
    });
    drawAxes(pen, lanes, { from, to, x, y, ink: colour("soft"), line: colour("line"), font: `12px ${style.fontFamily || "sans-serif"}` });
    data.bins.forEach((bin, i) => {
      if (!bin) return;
      const [, mean, peak, on] = bin, left = x(from + i * each);
      pen.fillStyle = on ? colour("alarm") : colour("raw");
      pen.fillRect(left, y(peak), wide, Math.max(1, y(mean) - y(peak)));
      pen.fillStyle = on ? colour("alarm") : colour("score");
      pen.fillRect(left, y(mean), wide, Math.max(1, y(0) - y(mean)));
    });
    if (data.threshold !== null) {
      pen.strokeStyle = colour("ink");
      pen.setLineDash([5, 4]);
      stroke(pen, area.left, y(data.threshold), area.left + area.width, y(data.threshold));
      pen.setLineDash([]);
    }
    const alarms = area.top + area.height + GAP, kept = alarms + LANE + GAP;
    pen.fillStyle = colour("alarm");
    for (const alarm of data.alarms) pen.fillRect(x(alarm.from), alarms, Math.max(3, x(alarm.to) - x(alarm.from)), LANE);
    pen.fillStyle = colour("good");
    for (const span of data.recorded) {
      const left = Math.max(area.left, x(span.from_s * 1000));
      pen.fillRect(left, kept, Math.max(2, Math.min(area.left + area.width, x(span.to_s * 1000)) - left), LANE);
    }
    if (this.cursor !== null && this.cursor >= from && this.cursor <= to) {
      pen.strokeStyle = colour("ink");
      pen.lineWidth = 2;
      stroke(pen, x(this.cursor), area.top, x(this.cursor), kept + LANE);
    }
  }
}

function stroke(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}
