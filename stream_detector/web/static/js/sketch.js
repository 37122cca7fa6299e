// Polygons over a picture: by pointer on the picture, or by numbers in percent beside it.
import { h, setText } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";
const round = (share) => Math.round(Math.min(1, Math.max(0, share)) * 1000) / 1000;

export class Sketch {
  // picture: address of the picture. shapes: [{ name, kind, points }]. changed(): after every change.
  constructor(picture, shapes, changed) {
    this.shapes = shapes;
    this.changed = changed;
    this.at = 0;
    this.svg = document.createElementNS(NS, "svg");
    this.svg.setAttribute("viewBox", "0 0 1000 1000");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");  // the numbers beside it say the same
    const none = h("p", { class: "none" }, "");
    const img = h("img", { alt: "Last picture of the camera", src: picture, draggable: false });
    img.addEventListener("error", () => setText(none, "no picture yet: draw on the empty area"));
    this.face = h("div", { class: "sketch" }, img, none);
    this.face.append(this.svg);
    this.list = h("div", { class: "stack" });
    this.held = -1;
    this.svg.addEventListener("pointerdown", (event) => this.press(event));
    this.svg.addEventListener("pointermove", (event) => { if (this.held >= 0) this.place(this.held, event); });
    this.svg.addEventListener("pointerup", () => { if (this.held >= 0) { this.held = -1; this.show(); this.changed(); } });
    this.show();
  }

  get shape() { return this.shapes[this.at]; }

  press(event) {
    const shape = this.shape;
    if (!shape) return;
    event.preventDefault();
    this.svg.setPointerCapture(event.pointerId);
    const [x, y] = this.spot(event), box = this.svg.getBoundingClientRect();
    this.held = shape.points.findIndex(([px, py]) => Math.hypot((px - x) * box.width, (py - y) * box.height) < 14);
    if (this.held < 0) this.held = shape.points.push([x, y]) - 1;
    this.draw();
  }

  spot(event) {
    const box = this.svg.getBoundingClientRect();
    return [round((event.clientX - box.left) / box.width), round((event.clientY - box.top) / box.height)];
  }

  place(index, event) {
    this.shape.points[index] = this.spot(event);
    this.draw();
  }

  select(at) {
    this.at = at;
    this.show();
  }

  show() {
    const shape = this.shape;
    this.draw();
    if (!shape) return this.list.replaceChildren(h("p", { class: "soft" }, "No region is chosen."));
    const set = (i, axis) => (event) => { shape.points[i][axis] = round(Number(event.target.value) / 100); this.draw(); this.changed(); };
    const number = (i, axis, label) => h("input", { type: "number", min: 0, max: 100, step: 0.1, value: (shape.points[i][axis] * 100).toFixed(1), "aria-label": `${shape.name}, point ${i + 1}, ${label} in percent`, oninput: set(i, axis) });
    this.list.replaceChildren(
      h("p", { class: "soft" }, shape.points.length < 3 ? `${shape.name}: a polygon has at least three points. Press on the picture, or add points here.` : `${shape.name}: ${shape.points.length} points. Press on the picture for another one; drag one to move it.`),
      h("ol", { class: "points" }, shape.points.map((_, i) => h("li", {}, number(i, 0, "from the left"), number(i, 1, "from the top"),
        h("button", { type: "button", "aria-label": `Remove point ${i + 1}`, onclick: () => { shape.points.splice(i, 1); this.show(); this.changed(); } }, "×")))),
      h("button", { type: "button", onclick: () => { shape.points.push([0.5, 0.5]); this.show(); this.changed(); this.list.querySelector("li:last-child input").focus(); } }, "Add a point"));
  }

  draw() {
    this.svg.replaceChildren(...this.shapes.flatMap((shape, i) => {
      const polygon = document.createElementNS(NS, "polygon");
      polygon.setAttribute("points", shape.points.map(([x, y]) => `${x * 1000},${y * 1000}`).join(" "));
      polygon.setAttribute("class", `${shape.kind}${i === this.at ? " chosen" : ""}`);
      if (i !== this.at) return [polygon];
      return [polygon, ...shape.points.map(([x, y]) => {
        const dot = document.createElementNS(NS, "ellipse");
        const box = this.svg.getBoundingClientRect();
        for (const [name, value] of [["cx", x * 1000], ["cy", y * 1000], ["rx", 7000 / Math.max(1, box.width)], ["ry", 7000 / Math.max(1, box.height)]]) dot.setAttribute(name, value);
        return dot;
      })];
    }));
  }
}
