// What the parts of the page share: the data, elements, numbers as text, scales.
const data = JSON.parse(document.getElementById("data").textContent);
const view = { x: "step", zoom: null, smoothing: 0, hover: null };
const palette = ["blue", "orange", "green", "violet", "yellow", "pink"];
const color = (name) => `var(--${name})`;

// An element with attributes and children; strings become text, never markup.
function make(namespace, tag, attributes, children) {
  const node = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}
const el = (tag, attributes, ...children) => make(null, tag, attributes, children);
const svg = (tag, attributes, ...children) => make("http://www.w3.org/2000/svg", tag, attributes, children);

const finite = (value) => typeof value === "number" && Number.isFinite(value);

// 12345 -> "12,345", 0.000123 -> "1.23e-4"
function numberText(value, digits = 4) {
  if (!finite(value)) return "not finite";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3) return value.toExponential(digits - 2).replace(/\.?0+e/, "e");
  if (size >= 1e15) return value.toExponential(digits - 2);
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  if (size >= 10 ** digits) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(digits)));
}

// 1234567 -> "1.23 M"
function shortText(value, units = ["", " k", " M", " G", " T"], step = 1000) {
  if (!finite(value)) return "not finite";
  let power = 0;
  while (Math.abs(value) >= step * 0.9995 && power + 1 < units.length) {
    value /= step;
    ++power;
  }
  return (power === 0 && Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)))) + units[power];
}
const bytesText = (bytes) => shortText(bytes, [" bytes", " KiB", " MiB", " GiB", " TiB"], 1024);

function secondsText(seconds) {
  if (!finite(seconds)) return "unknown";
  if (seconds < 1e-3) return `${Number((seconds * 1e6).toPrecision(3))} µs`;
  if (seconds < 1) return `${Number((seconds * 1e3).toPrecision(3))} ms`;
  if (seconds < 100) return `${Number(seconds.toPrecision(3))} s`;
  if (seconds < 6000) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}
const percentText = (share) => `${Number((share * 100).toPrecision(3))} %`;
const plural = (count, word) => `${numberText(count)} ${word}${count === 1 ? "" : "s"}`;

// Round values within [low, high], about `count` of them.
function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) ?? 10 * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}
function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const factors = decades > 3 ? [1] : decades > 1.2 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  const every = Math.max(1, Math.ceil(decades / 6));
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); ++power) {
    if (decades > 3 && power % every !== 0) continue;
    for (const factor of factors) {
      const tick = factor * 10 ** power;
      if (tick >= low * 0.9999 && tick <= high * 1.0001) ticks.push(Number(tick.toPrecision(6)));
    }
  }
  return decades < 0.15 ? linearTicks(low, high, 4) : ticks;
}

// The index of the value nearest to x in an ascending list.
function nearest(list, x) {
  let low = 0;
  let high = list.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (list[middle] < x) low = middle;
    else high = middle;
  }
  return Math.abs(list[high] - x) < Math.abs(list[low] - x) ? high : low;
}

const tooltip = document.getElementById("tooltip");
// rows: [color or null, label, text]
function showTooltip(event, head, rows) {
  tooltip.replaceChildren(el("div", { class: "head" }, head), ...rows.map(([paint, label, text]) =>
    el("div", { class: "row" }, el("span", { class: "swatch block", style: paint ? `background:${paint}` : null }),
      el("span", null, label), el("b", null, text))));
  tooltip.hidden = false;
  const box = tooltip.getBoundingClientRect();
  const right = event.clientX + 16 + box.width < window.innerWidth;
  tooltip.style.left = `${Math.max(4, right ? event.clientX + 16 : event.clientX - 16 - box.width)}px`;
  tooltip.style.top = `${Math.max(4, Math.min(event.clientY + 14, window.innerHeight - box.height - 6))}px`;
}
function hideTooltip() {
  tooltip.hidden = true;
}
const speak = (text) => { document.getElementById("spoken").textContent = text; };

// Draws the element at its width: when the page is put together (drawAll), when the width changes, and by what it returns.
const drawings = [];
const drawAll = () => drawings.forEach((drawing) => drawing());
function drawToWidth(node, draw) {
  let width = 0;
  const measure = () => {
    const now = Math.floor(node.getBoundingClientRect().width);
    if (now === width || now <= 0) return;
    width = now;
    draw(width);
  };
  drawings.push(measure);
  new ResizeObserver(() => requestAnimationFrame(measure)).observe(node);  // drawing within it would be a loop to it
  return () => { if (width > 0) draw(width); };
}

// rows of cells; a cell is text, a node, or {number: text}
function table(heads, rows, caption) {
  const cell = (tag, content) => content !== null && typeof content === "object" && "number" in content && !(content instanceof Node)
    ? el(tag, { class: "number" }, content.number) : el(tag, null, content);
  return el("div", { class: "table-box" }, el("table", null, caption ? el("caption", { class: "unseen" }, caption) : null,
    el("thead", null, el("tr", null, heads.map((head) => cell("th", head)))),
    el("tbody", null, rows.map((row) => el("tr", null, row.map((content) => cell("td", content)))))));
}
