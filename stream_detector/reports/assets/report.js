"use strict";
// Hover, zoom and axis of every timeline. Without this script the page shows the same, only still.
(() => {
  const WIDTH = 10000;
  const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  const panels = [];

  const clock = (seconds, longest) => {
    if (longest < 120) return `${+seconds.toFixed(1)} s`;
    const whole = Math.round(seconds);
    const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    const two = (n) => String(n).padStart(2, "0");
    return longest >= 3600 ? `${h}:${two(m)}:${two(s)}` : `${Math.floor(whole / 60)}:${two(s)}`;
  };

  const setUp = (panel) => {
    const data = JSON.parse(panel.querySelector("script").textContent);
    const svg = panel.querySelector("svg");
    const ticks = panel.querySelector(".ticks");
    const readout = panel.querySelector("output");
    const reset = panel.querySelector("button");
    const cursor = panel.querySelector(".cursor");
    const pick = panel.querySelector(".pick");
    const span = data.end - data.start;
    const state = { from: 0, to: WIDTH, down: null };
    const seconds = (x) => data.start + (x / WIDTH) * span;
    const place = (event) => {
      const box = svg.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      return state.from + share * (state.to - state.from);
    };

    const draw = () => {
      svg.setAttribute("viewBox", `${state.from} 0 ${state.to - state.from} 1000`);
      reset.hidden = state.from === 0 && state.to === WIDTH;
      const [first, last] = [seconds(state.from), seconds(state.to)];
      const most = Math.max(2, Math.floor(svg.clientWidth / 64));
      const step = STEPS.find((s) => (last - first) / s <= most) || 86400 * Math.ceil((last - first) / 86400 / most);
      ticks.replaceChildren();
      for (let t = Math.ceil(first / step - 1e-9) * step; t <= last + 1e-9; t += step) {
        const label = document.createElement("span");
        const share = (t - first) / (last - first);
        label.textContent = clock(t, data.end);
        label.style.left = `${100 * share}%`;
        label.className = share < 0.04 ? "first" : share > 0.96 ? "last" : "";
        ticks.append(label);
      }
    };
    const zoom = (from, to) => {
      const least = Math.max(2, (WIDTH * 1) / Math.max(span, 1e-3));
      const middle = (from + to) / 2;
      const half = Math.min(WIDTH, Math.max(to - from, least)) / 2;
      state.from = Math.max(0, Math.min(WIDTH - 2 * half, middle - half));
      state.to = Math.min(WIDTH, state.from + 2 * half);
      draw();
    };
    const read = (x) => {
      let [low, high] = [0, data.x.length - 1];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (data.x[middle] < x) low = middle + 1; else high = middle;
      }
      if (low > 0 && x - data.x[low - 1] < data.x[low] - x) low -= 1;
      cursor.setAttribute("x1", data.x[low]);
      cursor.setAttribute("x2", data.x[low]);
      cursor.style.display = "";
      const cause = data.causes[low];
      readout.textContent =
        `${clock(seconds(data.x[low]), data.end)} · raw ${data.raw[low].toFixed(2)} · smoothed ${data.smoothed[low].toFixed(2)}` +
        (cause ? ` · degraded: ${cause}` : "");
    };

    svg.addEventListener("pointermove", (event) => {
      const x = place(event);
      read(x);
      if (state.down !== null) {
        pick.style.display = "";
        pick.setAttribute("x", Math.min(state.down, x));
        pick.setAttribute("width", Math.abs(x - state.down));
      }
    });
    svg.addEventListener("pointerdown", (event) => {
      state.down = place(event);
      svg.setPointerCapture(event.pointerId);
      read(state.down);
    });
    const finish = (event) => {
      const from = state.down;
      state.down = null;
      pick.style.display = "none";
      if (event.type !== "pointerup" || from === null) return;
      const to = place(event);
      if (Math.abs(to - from) > 0.02 * (state.to - state.from)) zoom(Math.min(from, to), Math.max(from, to));
    };
    svg.addEventListener("pointerup", finish);
    svg.addEventListener("pointercancel", finish);
    svg.addEventListener("pointerleave", () => {
      cursor.style.display = "none";
      readout.textContent = "";
    });
    svg.addEventListener("dblclick", () => zoom(0, WIDTH));
    reset.addEventListener("click", () => zoom(0, WIDTH));
    svg.addEventListener("keydown", (event) => {
      const size = state.to - state.from;
      const keys = {
        "+": () => zoom(state.from + size / 4, state.to - size / 4),
        "-": () => zoom(state.from - size / 2, state.to + size / 2),
        "0": () => zoom(0, WIDTH),
        ArrowLeft: () => zoom(state.from - size / 4, state.to - size / 4),
        ArrowRight: () => zoom(state.from + size / 4, state.to + size / 4),
      };
      if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    window.addEventListener("resize", draw);
    draw();
    panels.push({
      name: data.camera,
      show: (first, last) => {
        const room = Math.max(10, last - first);
        zoom(((first - room - data.start) / span) * WIDTH, ((last + room - data.start) / span) * WIDTH);
        panel.scrollIntoView({ block: "center" });
      },
    });
  };

  document.querySelectorAll(".panel").forEach(setUp);
  document.querySelectorAll(".show").forEach((button) => {
    const panel = panels.find((candidate) => candidate.name === button.dataset.camera);
    button.hidden = !panel;
    if (panel) button.addEventListener("click", () => panel.show(+button.dataset.from, +button.dataset.to));
  });
})();
