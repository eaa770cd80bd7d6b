"use strict";

const SVG = "http://www.w3.org/2000/svg";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function element(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

/* Numbers */

function numberText(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(5)));
}

/** Round values from low to high, at most about n. */
function ticks(low, high, n) {
  const rough = (high - low) / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  for (const factors of [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]]) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); 10 ** e <= high; e++) {
      for (const f of factors) if (f * 10 ** e >= low && f * 10 ** e <= high) found.push(Number((f * 10 ** e).toPrecision(12)));
    }
    if (found.length > 2) return found.length > 8 ? found.filter((_, i) => i % Math.ceil(found.length / 8) === 0) : found;
  }
  return ticks(low, high, 4);
}

function nearest(sorted, value) {
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle; else high = middle;
  }
  return value - sorted[low] <= sorted[high] - value ? low : high;
}

/* Charts: lines over steps or layers, with the values at the pointer or at the arrow keys */

class Chart {
  constructor(figure, content) {
    this.figure = figure;
    this.content = content;
    this.plot = figure.querySelector(".plot");
    this.reading = figure.querySelector(".reading");
    this.hidden = new Set();
    this.log = false;
    this.at = null;
    const values = content.lines.flatMap((line) => line.y).filter((y) => y !== null);
    const toggle = figure.querySelector(".log");
    if (content.x_label === "step" && values.length > 2 && values.every((y) => y > 0)) {
      toggle.hidden = false;
      toggle.firstElementChild.addEventListener("change", (event) => { this.log = event.target.checked; this.draw(); });
    }
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.read(null));
    this.plot.addEventListener("blur", () => this.read(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  get lines() { return this.content.lines.filter((line) => !this.hidden.has(line.key)); }

  draw() {
    const width = this.plot.clientWidth, height = this.plot.clientHeight;
    if (!width) return; // within closed details
    const curves = this.lines.filter((line) => !line.level);
    this.steps = [...new Set(curves.flatMap((line) => line.x))].sort((a, b) => a - b);
    const ys = this.lines.flatMap((line) => line.y.flatMap((y, i) => {
      const error = line.error ? line.error[i] || 0 : 0;
      return y === null ? [] : [y - error, y + error];
    }));
    let [low, high] = ys.reduce(([a, b], y) => [Math.min(a, y), Math.max(b, y)], [Infinity, -Infinity]);
    if (!ys.length) [low, high] = [0, 1];
    if (low === high) { const room = Math.abs(low) * 0.1 || 1; low -= room; high += room; }
    const log = this.log && low > 0;
    const scale = log ? Math.log10 : (y) => y;
    const room = (scale(high) - scale(low)) * 0.05;
    const marks = log ? logTicks(low, high) : ticks(low, high, 5);
    const texts = marks.map(numberText);
    const left = 12 + 7 * Math.max(...texts.map((text) => text.length), 2), right = width - 12, top = 8, bottom = height - 24;
    const [first, last] = [this.steps[0] ?? 0, this.steps[this.steps.length - 1] ?? 1];
    this.x = (step) => last === first ? (left + right) / 2 : left + (right - left) * (step - first) / (last - first);
    this.y = (y) => bottom - (bottom - top) * (scale(y) - scale(low) + room) / (scale(high) - scale(low) + 2 * room);
    this.box = { left, right, top, bottom };

    const svg = element("svg", { "aria-hidden": "true" });
    marks.forEach((mark, i) => {
      svg.append(element("line", { class: "grid", x1: left, x2: right, y1: this.y(mark), y2: this.y(mark) }));
      svg.append(element("text", { x: left - 6, y: this.y(mark) + 4, "text-anchor": "end" }, texts[i]));
    });
    const across = last === first ? [first] : ticks(first, last, Math.max(2, width / 75)).filter(Number.isInteger);
    for (const step of across) svg.append(element("text", { x: this.x(step), y: height - 6, "text-anchor": "middle" }, step.toLocaleString("en")));
    if (!across.some((step) => this.x(step) > right - 60)) svg.append(element("text", { x: right, y: height - 6, "text-anchor": "end" }, this.content.x_label));
    svg.append(element("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    for (const line of this.lines) this.drawLine(svg, line);
    this.cursor = element("g");
    svg.append(this.cursor);
    this.plot.replaceChildren(svg);
    this.read(this.at);
  }

  drawLine(svg, line) {
    const style = `stroke:${line.color}`;
    if (line.level) {
      if (line.y[0] === null) return;
      const y = this.y(line.y[0]);
      svg.append(element("line", { class: "level", x1: this.box.left, x2: this.box.right, y1: y, y2: y, style, "stroke-dasharray": line.dash }));
      return;
    }
    let path = "", drawing = false;
    line.x.forEach((step, i) => {
      if (line.y[i] === null) { drawing = false; return; }
      path += `${drawing ? "L" : "M"}${this.x(step).toFixed(1)} ${this.y(line.y[i]).toFixed(1)}`;
      drawing = true;
    });
    svg.append(element("path", { d: path, style, "stroke-dasharray": line.dash }));
    const few = line.x.length <= 30;
    line.x.forEach((step, i) => {
      if (line.y[i] === null) return;
      const alone = (line.y[i - 1] ?? null) === null && (line.y[i + 1] ?? null) === null;
      if (few || alone) svg.append(element("circle", { cx: this.x(step), cy: this.y(line.y[i]), r: 2.6, style: `fill:${line.color}` }));
      const error = line.error ? line.error[i] : null;
      if (error) svg.append(element("line", { x1: this.x(step), x2: this.x(step), y1: this.y(line.y[i] - error), y2: this.y(line.y[i] + error), style, "stroke-width": 1.5, opacity: 0.6 }));
    });
  }

  point(event) {
    if (!this.steps || !this.steps.length) return;
    const { left, right } = this.box, [first, last] = [this.steps[0], this.steps[this.steps.length - 1]];
    const inside = (event.clientX - this.plot.getBoundingClientRect().left - left) / (right - left);
    this.read(nearest(this.steps, first + inside * (last - first)));
  }

  key(event) {
    if (!this.steps || !this.steps.length) return;
    const end = this.steps.length - 1, far = Math.max(1, Math.round(end / 10));
    const to = { ArrowRight: (i) => i + 1, ArrowLeft: (i) => i - 1, PageUp: (i) => i + far, PageDown: (i) => i - far, Home: () => 0, End: () => end, Escape: () => null }[event.key];
    if (!to) return;
    event.preventDefault();
    const next = to(this.at ?? (event.key === "ArrowLeft" ? end + 1 : -1));
    this.read(next === null ? null : Math.min(end, Math.max(0, next)));
  }

  /** Show the values at the step of this index; null shows none. */
  read(at) {
    this.at = at !== null && this.steps && at < this.steps.length ? at : null;
    this.reading.hidden = this.at === null;
    if (this.cursor) this.cursor.replaceChildren();
    if (this.at === null) return;
    const step = this.steps[this.at], x = this.x(step);
    this.cursor.append(element("line", { class: "cursor", x1: x, x2: x, y1: this.box.top, y2: this.box.bottom }));
    const title = document.createElement("b");
    title.textContent = `${this.content.x_label} ${step.toLocaleString("en")}`;
    const rows = this.lines.map((line) => {
      const i = line.level ? 0 : nearest(line.x, step), value = line.y[i], error = line.error ? line.error[i] : null;
      const other = !line.level && line.x[i] !== step ? ` (${this.content.x_label} ${line.x[i].toLocaleString("en")})` : "";
      if (value !== null && !line.level) {
        this.cursor.append(element("circle", { cx: this.x(line.x[i]), cy: this.y(value), r: 4, style: `fill:${line.color}` }));
      }
      const row = document.createElement("div"), name = document.createElement("span"), number = document.createElement("span"), dot = document.createElement("span");
      dot.className = "dot";
      dot.style.cssText = `background:${line.color};margin:0;flex:none`;
      name.textContent = line.label;
      const text = this.content.x_label === "step" ? numberText : (percent) => percent.toFixed(1);
      number.textContent = value === null ? `not finite${other}` : text(value) + (error ? ` ± ${text(error)}` : "") + other;
      row.append(dot, name, number);
      return row;
    });
    this.reading.replaceChildren(title, ...rows);
    const base = this.plot.offsetLeft;
    if (x < this.plot.clientWidth / 2) this.reading.style.cssText = `left:${base + x + 14}px`;
    else this.reading.style.cssText = `right:${this.figure.clientWidth - base - x + 14}px`;
  }
}

const contents = JSON.parse(document.getElementById("charts").textContent);
const probe = JSON.parse(document.getElementById("probe").textContent);
const charts = all("figure.chart").map((figure) => new Chart(figure, figure.dataset.chart === "probe" ? probe : contents[Number(figure.dataset.chart)]));

for (const button of all(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    const own = button.closest("figure.chart");
    for (const chart of charts) {
      if (own ? chart.figure !== own : !button.closest("[data-legend-scope]").contains(chart.figure)) continue;
      if (shown) chart.hidden.delete(button.dataset.key); else chart.hidden.add(button.dataset.key);
      chart.draw();
    }
  });
}

/* Pictures over the steps of training: each run shows its latest one at the chosen step */

for (const figure of all("figure.gallery")) {
  const slider = figure.querySelector("input[type=range]");
  if (!slider) continue;
  const steps = JSON.parse(slider.dataset.steps), play = figure.querySelector("button"), output = figure.querySelector("output");
  const show = () => {
    const step = steps[Number(slider.value)];
    output.textContent = `step ${step.toLocaleString("en")}`;
    slider.setAttribute("aria-valuetext", output.textContent);
    for (const picture of all(".picture", figure)) {
      const images = all("img", picture);
      const latest = images.filter((image) => Number(image.dataset.step) <= step).pop() ?? images[0];
      for (const image of images) image.hidden = image !== latest;
    }
  };
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "▶"; };
  slider.addEventListener("input", () => { stop(); show(); });
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (Number(slider.value) === steps.length - 1) slider.value = 0;
    show();
    play.textContent = "⏸";
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      show();
      if (Number(slider.value) === steps.length - 1) stop();
    }, 600);
  });
  show();
}

/* Tables */

function sortKey(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = text === "" ? NaN : Number(text);
  return { number, text, empty: text === "" || text === "nan" };
}

function compare(a, b) {
  if (Number.isFinite(a.number) && Number.isFinite(b.number)) return a.number - b.number;
  return a.text.localeCompare(b.text, "en", { numeric: true });
}

for (const table of all("table.sortable")) {
  all("thead th", table).forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of all("thead th", table)) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const rows = all("tbody tr", table).map((row) => [sortKey(row.children[column]), row]);
      rows.sort(([a], [b]) => a.empty !== b.empty ? a.empty - b.empty : sign * compare(a, b)); // empty ones are last
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

for (const part of all(".comparison")) {
  const search = part.querySelector("input[type=search]"), only = part.querySelector("input.only"), rows = all("tbody tr", part);
  if (!search) continue;
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word)) || Boolean(only && only.checked && !row.classList.contains("differs"));
      shown += !row.hidden;
    }
    part.querySelector(".count").textContent = `${shown} of ${rows.length}`;
  };
  search.addEventListener("input", filter);
  if (only) only.addEventListener("change", filter);
  filter();
}

/* Colors: as the system has them, light or dark */

const themes = ["automatic", "light", "dark"], theme = document.getElementById("theme");

function choose(name) {
  if (name === "automatic") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
  theme.textContent = `Colors: ${name}`;
  theme.removeAttribute("aria-label");
  try { localStorage.setItem("igpt-report-colors", name); } catch { /* not allowed for files in some browsers */ }
}

let saved = null;
try { saved = localStorage.getItem("igpt-report-colors"); } catch { /* as above */ }
choose(themes.includes(saved) ? saved : "automatic");
theme.addEventListener("click", () => choose(themes[(themes.indexOf(document.documentElement.dataset.theme ?? "automatic") + 1) % 3]));
