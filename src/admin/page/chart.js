// Owns the drawings: charts of the last minutes with axes, a legend and a cursor, and the small lines of the tiles.
// A point is `{ at, ... }` with its time in milliseconds; where a value is missing (null), the line has a gap.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { top: 8, right: 10, bottom: 22, left: 46 };
const TICK_PX = 36;
const MINUTE_MS = 60_000;
const LABEL_PX = 72;

function svg(name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** Returns the `d` of a line through these points of the screen. `null` makes a gap. */
function line(points) {
  let pen = "M";
  let path = "";
  for (const point of points) {
    if (point) path += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = point ? "L" : "M";
  }
  return path;
}

/** A linear axis from 0 to the next round number above the largest value, with few ticks. */
function linear(largest, steps) {
  const rough = Math.max(largest, 1) / Math.max(steps, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= rough && step >= 1) ?? 1;
  const top = Math.max(1, Math.ceil(largest / step)) * step;
  const ticks = Array.from({ length: Math.round(top / step) + 1 }, (_, at) => at * step);
  return { ticks, place: (value) => value / top };
}

/** A logarithmic axis with the powers of ten around the values. */
function logarithmic(least, largest) {
  const from = Math.floor(Math.log10(Math.max(least, 1)));
  const to = Math.max(from + 1, Math.ceil(Math.log10(Math.max(largest, 1))));
  const ticks = Array.from({ length: to - from + 1 }, (_, at) => 10 ** (from + at));
  return { ticks, place: (value) => Math.max(0, (Math.log10(Math.max(value, 1)) - from) / (to - from)) };
}

/** A chart in a `figure`. */
export class Chart {
  #figure;
  #svg = svg("svg", { role: "img", tabindex: 0 });
  #axes = svg("g", { class: "axes" });
  #cursor = svg("line", { class: "cursor" });
  #dots;
  #lines;
  #areas;
  #legend;
  #points = [];
  #now = 0;
  #span = MINUTE_MS;
  #place = null; // maps a point to the screen
  #at = null; // the index of the point below the cursor

  /** `series`: `{ key, name, area }`. `format` formats a value, `tick` a value at the axis. */
  constructor(figure, { name, series, format, tick, log = false }) {
    Object.assign(this, { name, series, format, tick, log });
    this.#figure = figure;
    const mark = (name) => ({ key }) => svg(name, { class: `${name === "circle" ? "dot" : "line"} ${key}` });
    this.#areas = series.filter(({ area }) => area).map(({ key }) => [key, svg("path", { class: `area ${key}` })]);
    this.#lines = series.map(mark("path"));
    this.#dots = series.map(mark("circle"));
    this.#dots.forEach((dot) => dot.setAttribute("r", 3));
    this.#svg.append(this.#axes, ...this.#areas.map(([, area]) => area), ...this.#lines, this.#cursor, ...this.#dots);
    this.#legend = this.#makeLegend();
    figure.append(this.#svg);
    new ResizeObserver(() => this.#draw()).observe(this.#svg);
    this.#listen();
  }

  /** Shows these points, over the `span` milliseconds before `now`. */
  show(points, now, span) {
    const watched = this.#points[this.#at];
    this.#points = points;
    this.#now = now;
    this.#span = span;
    if (watched) this.#at = points.indexOf(watched);
    this.#draw();
  }

  #makeLegend() {
    const legend = document.createElement("p");
    legend.className = "legend";
    const values = this.series.map(({ key, name }) => {
      const item = document.createElement("span");
      item.className = key;
      const value = document.createElement("b");
      item.append(`${name} `, value);
      legend.append(item);
      return value;
    });
    const time = document.createElement("time");
    legend.append(time);
    this.#figure.append(legend);
    return { values, time };
  }

  #listen() {
    const watch = (at) => {
      this.#at = at;
      this.#mark();
    };
    this.#svg.addEventListener("pointermove", ({ clientX }) => {
      let nearest = null;
      const pointed = clientX - this.#svg.getBoundingClientRect().left;
      const away = (at) => Math.abs(this.#place?.x(this.#points[at].at) - pointed);
      this.#points.forEach((_, at) => (nearest = nearest === null || away(at) < away(nearest) ? at : nearest));
      watch(nearest);
    });
    this.#svg.addEventListener("pointerleave", () => watch(null));
    this.#svg.addEventListener("blur", () => watch(null));
    this.#svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || this.#points.length === 0) return;
      event.preventDefault();
      const last = this.#points.length - 1;
      watch(Math.min(last, Math.max(0, (this.#at ?? last) + step)));
    });
  }

  #draw() {
    const { width, height } = this.#svg.getBoundingClientRect();
    if (width === 0 || this.#now === 0) return;
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const values = this.#points.flatMap((point) => this.series.map(({ key }) => point[key])).filter(Number.isFinite);
    const largest = Math.max(0, ...values);
    const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    const scale = this.log
      ? logarithmic(Math.min(largest, ...values), largest)
      : linear(largest, Math.floor(inner.height / TICK_PX));
    const x = (time) => MARGIN.left + inner.width * (1 - (this.#now - time) / this.#span);
    const y = (value) => MARGIN.top + inner.height * (1 - scale.place(value));
    this.#place = { x, y, inner };
    this.#drawAxes(scale.ticks);
    this.series.forEach(({ key }, at) => this.#lines[at].setAttribute("d", line(this.#line(key))));
    for (const [key, area] of this.#areas) area.setAttribute("d", this.#area(key));
    this.#mark();
  }

  #line(key) {
    const { x, y } = this.#place;
    return this.#points.map((point) => (Number.isFinite(point[key]) ? [x(point.at), y(point[key])] : null));
  }

  /** Returns the pieces of the line, each closed along the bottom. */
  #area(key) {
    const bottom = MARGIN.top + this.#place.inner.height;
    const pieces = [[]];
    for (const point of this.#line(key)) point ? pieces.at(-1).push(point) : pieces.push([]);
    const close = (piece) => `${line([[piece[0][0], bottom], ...piece, [piece.at(-1)[0], bottom]])}Z`;
    return pieces.filter((piece) => piece.length > 0).map(close).join("");
  }

  #drawAxes(ticks) {
    const { x, y, inner } = this.#place;
    const right = MARGIN.left + inner.width;
    const bottom = MARGIN.top + inner.height;
    const label = (text, attributes) => {
      const element = svg("text", attributes);
      element.textContent = text;
      return element;
    };
    const rows = ticks.flatMap((tick) => [
      svg("line", { x1: MARGIN.left, x2: right, y1: y(tick), y2: y(tick) }),
      label(this.tick(tick), { x: MARGIN.left - 8, y: y(tick) + 4, "text-anchor": "end" }),
    ]);
    const step = this.#span > MINUTE_MS ? MINUTE_MS : MINUTE_MS / 4;
    const every = (inner.width * step) / this.#span < LABEL_PX ? 2 : 1;
    const columns = [];
    for (let ago = 0; ago <= this.#span; ago += every * step) {
      const text = ago === 0 ? "now" : step < MINUTE_MS ? `−${ago / 1000} s` : `−${ago / MINUTE_MS} min`;
      const anchor = ago === 0 ? "end" : ago === this.#span ? "start" : "middle";
      columns.push(label(text, { x: x(this.#now - ago), y: bottom + 16, "text-anchor": anchor }));
    }
    this.#axes.replaceChildren(...rows, ...columns);
  }

  /** Draws legend and cursor: the values below the cursor, or the last values. */
  #mark() {
    const point = this.#points[this.#at ?? this.#points.length - 1];
    const marked = this.#at !== null && point && this.#place;
    this.#cursor.classList.toggle("shown", Boolean(marked));
    this.series.forEach(({ key }, at) => {
      const value = point?.[key];
      this.#legend.values[at].textContent = Number.isFinite(value) ? this.format(value) : "–";
      const dotted = marked && Number.isFinite(value);
      this.#dots[at].classList.toggle("shown", Boolean(dotted));
      if (!dotted) return;
      this.#dots[at].setAttribute("cx", this.#place.x(point.at));
      this.#dots[at].setAttribute("cy", this.#place.y(value));
    });
    const said = this.series.map(({ name }, at) => `${name} ${this.#legend.values[at].textContent}`);
    this.#svg.setAttribute("aria-label", `${this.name}: ${said.join(", ")}`);
    this.#legend.time.textContent = marked ? new Date(point.at).toLocaleTimeString("en-GB") : "";
    if (!marked) return;
    const { x, inner } = this.#place;
    const place = { x1: x(point.at), x2: x(point.at), y1: MARGIN.top, y2: MARGIN.top + inner.height };
    for (const [key, value] of Object.entries(place)) this.#cursor.setAttribute(key, value);
  }
}

/** A small line without axes, in an `svg` that is stretched to its place. */
export class Spark {
  #path = svg("path", { class: "line", "vector-effect": "non-scaling-stroke" });

  constructor(element) {
    element.setAttribute("viewBox", "0 0 100 20");
    element.setAttribute("preserveAspectRatio", "none");
    element.setAttribute("aria-hidden", "true");
    element.append(this.#path);
  }

  show(points, key, now, span) {
    const values = points.map((point) => point[key]).filter(Number.isFinite);
    const top = Math.max(1e-9, ...values) * 1.3;
    const place = (point) => [100 * (1 - (now - point.at) / span), 19 - 18 * (point[key] / top)];
    this.#path.setAttribute("d", line(points.map((point) => (Number.isFinite(point[key]) ? place(point) : null))));
  }
}

/** A row of bars, one for each value from 0 to 1, with a tooltip. */
export class Strip {
  #bars = [];

  constructor(element) {
    this.element = element;
    element.setAttribute("preserveAspectRatio", "none");
  }

  show(values) {
    this.element.setAttribute("viewBox", `0 0 ${values.length} 1`);
    while (this.#bars.length > values.length) this.#bars.pop().remove();
    while (this.#bars.length < values.length) {
      const bar = svg("rect", { x: this.#bars.length + 0.1, width: 0.8 });
      bar.append(svg("title"));
      this.element.append(bar);
      this.#bars.push(bar);
    }
    values.forEach(({ share, words }, at) => {
      const height = Math.max(0.02, Math.min(1, share));
      this.#bars[at].setAttribute("y", 1 - height);
      this.#bars[at].setAttribute("height", height);
      this.#bars[at].firstChild.textContent = words;
    });
  }
}
