// Labelled axes of a chart on a canvas: times below, scores at the left.
const MINUTE = 60000, HOUR = 3600000, DAY = 86400000;
const STEPS = [MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY];
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });

// Moments (ms) between two others, at whole local times, at most `most` of them: [moment, label].
export function timeTicks(from, to, most) {
  const step = STEPS.find((s) => (to - from) / s <= most) || STEPS[STEPS.length - 1];
  const zone = new Date(from).getTimezoneOffset() * MINUTE, ticks = [];
  for (let at = Math.ceil((from - zone) / step) * step + zone; at <= to; at += step) {
    const when = new Date(at), midnight = when.getHours() === 0 && when.getMinutes() === 0;
    ticks.push([at, step >= DAY || midnight ? date.format(when) : clock.format(when)]);
  }
  return ticks;
}

const SECONDS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200];

// Media times (s) between two others, at round ones, at most about `most` of them.
export function mediaTicks(from, to, most) {
  const step = SECONDS.find((s) => (to - from) / s <= most) || SECONDS[SECONDS.length - 1], ticks = [];
  for (let at = Math.ceil(from / step) * step; at <= to + 1e-6; at += step) ticks.push(at);
  return ticks;
}

// Draws them. area: { left, top, width, height } of the plot; x(ms) and y(score) give places on the canvas.
export function drawAxes(pen, area, { from, to, x, y, ink, line, font }) {
  pen.font = font;
  pen.fillStyle = ink;
  pen.strokeStyle = line;
  pen.lineWidth = 1;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (const value of [0, 0.5, 1]) {
    rule(pen, area.left, y(value), area.left + area.width, y(value));
    pen.fillText(value.toFixed(1), area.left - 6, y(value));
  }
  pen.textBaseline = "top";
  const bottom = area.top + area.height;
  for (const [at, label] of timeTicks(from, to, Math.max(2, Math.floor(area.width / 90)))) {
    const wide = pen.measureText(label).width, place = x(at);
    rule(pen, place, area.top, place, bottom + 4);
    pen.textAlign = place - wide / 2 < 0 ? "left" : place + wide / 2 > area.left + area.width + 10 ? "right" : "center";
    pen.fillText(label, place, bottom + 7);
  }
}

function rule(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
  pen.lineTo(Math.round(x2) + 0.5, Math.round(y2) + 0.5);
  pen.stroke();
}
