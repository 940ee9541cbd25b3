// Curves over steps: shared zoom and crosshair, log or linear values, smoothing, series that can be switched off.
const charts = [];
const redrawCharts = () => charts.forEach((chart) => chart.redraw());

// The place of a step on the horizontal axis of the view.
function placeOf(run, step) {
  if (view.x === "step") return step;
  const { steps, values } = run.tokens;
  if (steps.length === 0) return step * run.tokens_per_step;
  if (step <= steps[0]) return values[0] * step / steps[0];
  const last = steps.length - 1;
  if (step >= steps[last]) return values[last] + (step - steps[last]) * run.tokens_per_step;
  let i = nearest(steps, step);
  if (steps[i] > step) --i;
  return values[i] + (values[i + 1] - values[i]) * (step - steps[i]) / (steps[i + 1] - steps[i]);
}

// Exponential mean over neighbours, corrected for its start; gaps stay gaps.
function smoothed(values, weight) {
  if (!(weight > 0)) return values;
  let mean = 0;
  let total = 0;
  return values.map((value) => {
    if (!finite(value)) return null;
    mean = mean * weight + value * (1 - weight);
    total = total * weight + (1 - weight);
    return mean / total;
  });
}

class Chart {
  // series: {run, label, paint, steps, values, dots}; options: {title, unit, log, fromZero, text}
  constructor(series, options) {
    this.series = series.map((one) => ({ ...one, shown: true }));
    this.options = options;
    this.log = Boolean(options.log);
    this.text = options.text ?? ((value) => numberText(value, 5));
    this.plot = svg("svg", { class: "plot", height: 220, tabindex: 0, role: "img", "aria-label": this.summary() });
    const scale = ["linear", "log"].map((name) => el("button", {
      type: "button", "aria-pressed": String((name === "log") === this.log),
      onclick: () => { this.log = name === "log"; scale.forEach((b) => b.setAttribute("aria-pressed", String(b.textContent === name))); this.redraw(); },
    }, name));
    this.node = el("section", { class: "card", "aria-label": options.title },
      el("div", { class: "chart-head" },
        el("h3", null, options.title, options.unit ? el("span", { class: "unit" }, ` ${options.unit}`) : null),
        el("div", { class: "segments", role: "group", "aria-label": `Scale of ${options.title}` }, scale)),
      el("div", { class: "legend" }, this.legend()), this.plot);
    this.redraw = drawToWidth(this.plot, (width) => this.draw(width));
    this.listen();
    charts.push(this);
  }

  summary() {
    const parts = this.series.map(({ label, values }) => {
      const known = values.filter(finite);
      return known.length ? `${label} from ${this.text2(known[0])} to ${this.text2(known[known.length - 1])}` : `${label} without values`;
    });
    return `${this.options.title}: ${parts.join("; ")}. Arrow keys move along the curves.`;
  }
  text2(value) { return (this.options.text ?? numberText)(value); }

  legend() {
    if (this.series.length < 2) return null;
    return this.series.map((one) => el("button", {
      type: "button", "aria-pressed": "true", title: "Show or hide",
      onclick: (event) => { one.shown = !one.shown; event.currentTarget.setAttribute("aria-pressed", String(one.shown)); this.redraw(); },
    }, el("span", { class: `swatch${one.dots ? " dashed" : ""}`, style: `border-color:${one.paint}` }), one.label));
  }

  domain() {
    if (view.zoom) return view.zoom;
    let low = Infinity;
    let high = -Infinity;
    for (const run of data.runs) {
      if (run.last_step === 0) continue;
      low = Math.min(low, placeOf(run, 1));
      high = Math.max(high, placeOf(run, run.last_step));
    }
    return high > low ? [low, high] : [finite(low) ? low - 1 : 0, finite(low) ? low + 1 : 1];
  }

  range(lines, [left, right]) {
    let low = Infinity;
    let high = -Infinity;
    for (const { xs, means } of lines) {
      for (let i = 0; i < xs.length; ++i) {
        if (xs[i] < left || xs[i] > right || !finite(means[i]) || (this.log && means[i] <= 0)) continue;
        low = Math.min(low, means[i]);
        high = Math.max(high, means[i]);
      }
    }
    if (!(high >= low)) return this.log ? [0.1, 1] : [0, 1];
    if (this.log) {
      const pad = Math.max(Math.log10(high / low) * 0.06, 0.01);
      return [low * 10 ** -pad, high * 10 ** pad];
    }
    if (this.options.fromZero) return [Math.min(0, low), high > 0 ? high * 1.06 : 1];
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    return [low - pad, high + pad];
  }

  draw(width) {
    const height = 220;
    const box = { left: 54, right: width - 10, top: 8, bottom: height - 22 };
    const domain = this.domain();
    const lines = this.series.filter((one) => one.shown).map((one) => ({
      ...one, xs: one.steps.map((step) => placeOf(one.run, step)), means: one.dots || this.options.exact ? one.values : smoothed(one.values, view.smoothing),
    }));
    const range = this.range(lines, domain);
    const at = (value) => (this.log ? Math.log10(value) : value);
    const x = (value) => box.left + (value - domain[0]) / (domain[1] - domain[0]) * (box.right - box.left);
    const y = (value) => box.bottom - (at(value) - at(range[0])) / (at(range[1]) - at(range[0])) * (box.bottom - box.top);
    this.frame = { box, domain, lines, x, y };
    const clip = `clip-${charts.indexOf(this)}`;
    const inside = svg("g", { "clip-path": `url(#${clip})` });
    const outside = svg("g");
    this.axes(outside, box, domain, range, x, y);
    this.marks(inside, outside, box, domain, x);
    for (const line of lines) this.line(inside, line, domain, x, y);
    this.cross = svg("g");
    this.plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.plot.replaceChildren(
      svg("defs", null, svg("clipPath", { id: clip }, svg("rect", {
        x: box.left, y: box.top - 4, width: Math.max(box.right - box.left + 5, 0), height: box.bottom - box.top + 8 }))),
      outside, inside, this.cross);
    this.crosshair();
  }

  axes(group, box, domain, range, x, y) {
    const ticks = this.log ? logTicks(...range) : linearTicks(...range, 6);
    let last = Infinity;
    for (const tick of ticks) {
      const place = y(tick);
      group.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: place, y2: place }));
      if (last - place < 13) continue;
      last = place;
      group.append(svg("text", { x: box.left - 7, y: place + 4, "text-anchor": "end" }, this.options.tick ? this.options.tick(tick) : numberText(tick, 4)));
    }
    group.append(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
    for (const tick of linearTicks(...domain, Math.max(2, Math.floor((box.right - box.left) / 90)))) {
      if (view.x === "step" && !Number.isInteger(tick)) continue;
      const place = x(tick);
      group.append(svg("line", { class: "axis", x1: place, x2: place, y1: box.bottom, y2: box.bottom + 4 }),
        svg("text", { x: place, y: box.bottom + 16, "text-anchor": place > box.right - 18 ? "end" : "middle" }, shortText(tick)));
    }
  }

  marks(inside, outside, box, domain, x) {
    for (const run of data.runs) {
      for (const start of run.starts) {
        if (!(start.step > 0)) continue;
        const place = placeOf(run, start.step);
        inside.append(svg("line", { class: "restart", x1: x(place), x2: x(place), y1: box.top, y2: box.bottom }));
      }
      const seen = new Set();
      for (const step of run.skipped) {
        const place = placeOf(run, step);
        const pixel = Math.round(x(place));
        if (place < domain[0] || place > domain[1] || seen.has(pixel)) continue;
        seen.add(pixel);
        outside.append(svg("path", { class: "skipped", d: `M${pixel - 4} ${box.bottom} h8 l-4 -7 z` }));
      }
    }
  }

  line(group, line, domain, x, y) {
    const path = (values) => {
      let text = "";
      let open = false;
      for (let i = 0; i < values.length; ++i) {
        const usable = finite(values[i]) && !(this.log && values[i] <= 0);
        if (usable) text += `${open ? "L" : "M"}${x(line.xs[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`;
        open = usable;
      }
      return text;
    };
    const paint = { fill: "none", stroke: line.paint, "stroke-linejoin": "round", "stroke-linecap": "round" };
    if (line.means !== line.values) group.append(svg("path", { ...paint, "stroke-width": 1, opacity: 0.28, d: path(line.values) }));
    const few = line.xs.length < 60;
    const dense = !this.options.exact && line.means === line.values && line.xs.length > 2 * (this.frame.box.right - this.frame.box.left);
    group.append(svg("path", { ...paint, "stroke-width": dense ? 1 : 2, "stroke-dasharray": line.dots && !few ? "1 4" : null, d: path(line.means),
      opacity: line.dots && few ? 0.55 : 1 }));
    if (!(line.dots || line.xs.length === 1) || !few) return;
    line.xs.forEach((place, i) => {
      if (!finite(line.values[i]) || (this.log && line.values[i] <= 0)) return;
      group.append(svg("circle", { cx: x(place), cy: y(line.values[i]), r: 4, fill: line.paint, stroke: "var(--surface)", "stroke-width": 2 }));
    });
  }

  // Of every shown line, the point nearest to the place under the pointer.
  points() {
    if (view.hover === null || !this.frame) return [];
    return this.frame.lines.filter((line) => line.xs.length > 0).map((line) => {
      const i = nearest(line.xs, view.hover);
      return { line, i, place: line.xs[i], step: line.steps[i], value: line.values[i], mean: line.means[i] };
    }).filter((point) => !point.line.dots || Math.abs(this.frame.x(point.place) - this.frame.x(view.hover)) < 24);
  }

  crosshair() {
    if (!this.cross) return;
    this.cross.replaceChildren();
    if (view.hover === null) return;
    const { box, x, y, domain } = this.frame;
    const points = this.points();
    const place = points.find((point) => !point.line.dots)?.place ?? points[0]?.place ?? view.hover;
    if (place < domain[0] || place > domain[1]) return;
    this.cross.append(svg("line", { class: "cross", x1: x(place), x2: x(place), y1: box.top, y2: box.bottom }));
    for (const point of points) {
      if (!finite(point.mean) || (this.log && point.mean <= 0)) continue;
      this.cross.append(svg("circle", { cx: x(point.place), cy: y(point.mean), r: 4, fill: point.line.paint, stroke: "var(--surface)", "stroke-width": 2 }));
    }
  }

  tell(event) {
    const points = this.points();
    if (points.length === 0) return;
    const first = points.find((point) => !point.line.dots) ?? points[0];
    const skipped = first.line.run.skipped.includes(first.step) ? ", skipped" : "";
    const head = `step ${numberText(first.step)}${view.x === "tokens" ? `, ${shortText(first.place)} tokens` : ""}${skipped}`;
    const rows = points.map(({ line, step, value, mean }) => [line.paint, line.label + (step === first.step ? "" : ` (step ${numberText(step)})`),
      this.text(value) + (mean !== value && finite(mean) ? ` (mean ${this.text(mean)})` : "")]);
    if (event) showTooltip(event, head, rows);
    else speak(`${head}: ${rows.map(([, label, text]) => `${label} ${text}`).join(", ")}`);
  }

  listen() {
    let begin = null;
    const placeAt = (event) => {
      const { box, domain } = this.frame;
      const share = (event.clientX - this.plot.getBoundingClientRect().left - box.left) / (box.right - box.left);
      return domain[0] + Math.min(1, Math.max(0, share)) * (domain[1] - domain[0]);
    };
    const move = (place) => { view.hover = place; charts.forEach((chart) => chart.crosshair()); };
    this.plot.addEventListener("pointermove", (event) => {
      if (!this.frame) return;
      move(placeAt(event));
      this.tell(event);
      if (begin === null) return;
      const { box, x } = this.frame;
      const [left, right] = [x(begin), x(view.hover)].sort((a, b) => a - b);
      this.cross.append(svg("rect", { x: left, y: box.top, width: right - left, height: box.bottom - box.top, fill: "var(--blue)", opacity: 0.12 }));
    });
    this.plot.addEventListener("pointerleave", () => { move(null); hideTooltip(); });
    this.plot.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch" || !this.frame) return;
      begin = placeAt(event);
      this.plot.setPointerCapture(event.pointerId);
    });
    this.plot.addEventListener("pointerup", (event) => {
      if (begin === null) return;
      const [left, right] = [begin, placeAt(event)].sort((a, b) => a - b);
      begin = null;
      if (this.frame.x(right) - this.frame.x(left) > 6) zoomTo([left, right]);
    });
    this.plot.addEventListener("dblclick", () => zoomTo(null));
    this.plot.addEventListener("blur", () => move(null));
    this.plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
      const line = this.frame?.lines.find((one) => one.xs.length > 0);
      if (event.key === "Escape") return zoomTo(null);
      if (!step || !line) return;
      event.preventDefault();
      const now = view.hover === null ? line.xs.length - 1 : nearest(line.xs, view.hover) + step;
      move(line.xs[Math.min(line.xs.length - 1, Math.max(0, now))]);
      this.tell(null);
    });
  }
}

let whenZoomed = () => {};
function zoomTo(domain) {
  view.zoom = domain;
  hideTooltip();
  whenZoomed();
  redrawCharts();
}
