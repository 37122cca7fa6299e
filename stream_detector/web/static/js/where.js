// Where in the picture an alarm looks at, drawn over its snapshot; a button shows and hides it.
import { h, store } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const FAINT = 0.25; // cells below are not drawn

// The rows of the caption below a snapshot of this width, as evidence/snapshot.py writes it.
export const captionRows = (width) => Math.max(22, Math.round(width / 32));

const part = (name, fields) => {
  const node = document.createElementNS(SVG, name);
  Object.entries(fields).forEach(([key, value]) => node.setAttribute(key, value));
  return node;
};

// Cells and boxes of `where` in a picture of width × height pixels.
export function shapes(where, width, height) {
  const [left, top, right, bottom] = where.region || [0, 0, 1, 1];
  const rows = where.grid.length, columns = where.grid[0].length;
  const across = (right - left) * width / columns, down = (bottom - top) * height / rows;
  const cells = where.grid.flatMap((row, y) => row.map((value, x) => ({ value, x: left * width + x * across, y: top * height + y * down, width: across, height: down })));
  const boxes = where.boxes.map(([x, y, x1, y1]) => ({ x: x * width, y: y * height, width: (x1 - x) * width, height: (y1 - y) * height }));
  return { cells: cells.filter((cell) => cell.value >= FAINT), boxes };
}

// A snapshot with what `where` says over it; the snapshot alone where nothing is known.
export function withWhere(still, where) {
  if (!still || !where) return still;
  const svg = part("svg", { preserveAspectRatio: "xMidYMid meet", "aria-hidden": "true" });
  const button = h("button", { type: "button", title: "Coarse hint: the strongest cell is marked even if nothing happens" }, "Where it looked");
  const show = (on) => { svg.toggleAttribute("hidden", !on); button.setAttribute("aria-pressed", String(on)); };
  button.addEventListener("click", () => { const on = button.getAttribute("aria-pressed") !== "true"; store.set("where", on ? "1" : "0"); show(on); });
  const draw = () => {
    const width = still.naturalWidth, height = still.naturalHeight;
    if (!width) return;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const { cells, boxes } = shapes(where, width, height - captionRows(width));
    svg.replaceChildren(
      ...cells.map(({ value, ...at }) => part("rect", { ...at, class: "cell", "fill-opacity": (0.45 * value).toFixed(3) })),
      ...boxes.map((at) => part("rect", { ...at, class: "around", fill: "none" })));
  };
  still.addEventListener("load", draw);
  draw();
  show(store.get("where", "1") === "1");
  return h("div", { class: "stack" }, h("div", { class: "where" }, still, svg), h("p", {}, button));
}
