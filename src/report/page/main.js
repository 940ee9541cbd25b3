// The page, from top to bottom.
const main = document.getElementById("main");
const many = data.runs.length > 1;
const paintOf = (index) => color(palette[index % palette.length]);
const last = (curve) => {
  for (let i = (curve?.values.length ?? 0) - 1; i >= 0; --i) if (finite(curve.values[i])) return curve.values[i];
  return null;
};
const restarts = (run) => run.starts.filter((start) => start.step > 0).length;
const valueOr = (value, text) => (value === null ? "none" : text(value));
const textOfLoss = (value) => numberText(value, 5);

function header() {
  document.getElementById("title").textContent = data.runs.map((run) => run.name).join("  ·  ");
  document.getElementById("subtitle").textContent = many ? `${data.runs.length} runs side by side`
    : `${data.runs[0].folder} · ${shortText(data.runs[0].num_parameters)} parameters`;
  document.getElementById("footer").textContent = `Made by ${data.program} on ${data.made}. This page is complete in itself and loads nothing.`;
  // Light or dark as the system says, until the button is used.
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = (name) => { root.dataset.theme = name; };
  const follow = () => show(dark.matches ? "dark" : "light");
  follow();
  dark.addEventListener("change", follow);
  document.getElementById("theme").addEventListener("click", () => {
    dark.removeEventListener("change", follow);
    show(root.dataset.theme === "dark" ? "light" : "dark");
  });
}

function facts(run) {
  const curves = run.curves;
  const progress = run.steps > 0 ? `of ${numberText(run.steps)}${run.last_step >= run.steps ? ", finished" : ""}` : "";
  return [
    ["Steps", numberText(run.last_step), progress],
    ["Loss", valueOr(last(curves.loss), textOfLoss), "of the last step"],
    ["Validation loss", valueOr(last(curves.val_loss), textOfLoss), curves.val_loss ? "latest evaluation" : "no evaluation"],
    ["Bits per byte", valueOr(last(curves.val_bits_per_byte), textOfLoss), curves.val_bits_per_byte ? "latest evaluation" : "no evaluation"],
    ["Tokens", shortText(last(run.tokens) ?? 0), "trained on"],
    ["Tokens a second", shortText(run.tokens_per_second), "median"],
    ["Training time", secondsText(run.seconds), "of all steps"],
    ["Skipped steps", numberText(run.skipped.length), "without an update"],
    ["Restarts", run.starts.length ? numberText(restarts(run)) : "unknown", run.starts.length ? "from a checkpoint" : "no logs/starts.jsonl"],
  ];
}

function summary() {
  if (!many) {
    main.append(el("div", { class: "tiles" }, facts(data.runs[0]).map(([label, value, note]) =>
      el("div", { class: `card tile${label === "Skipped steps" && value !== "0" ? " bad" : ""}` }, el("div", { class: "label" }, label),
        el("div", { class: "value" }, value), el("div", { class: "note" }, note)))));
    return;
  }
  const heads = facts(data.runs[0]).map(([label]) => ({ number: label }));
  main.append(el("div", { class: "card", style: "margin-top:18px" }, table(["Run", ...heads, { number: "Parameters" }], data.runs.map((run, i) => [
    el("span", { class: "key", style: "color:var(--ink)" }, el("span", { class: "swatch block", style: `background:${paintOf(i)}` }), run.name),
    ...facts(run).map(([, value]) => ({ number: value })), { number: shortText(run.num_parameters) },
  ]), "The runs")));
}

function toolbar() {
  const value = el("output", null, "0");
  const range = el("input", {
    type: "range", min: 0, max: 99, value: 0, "aria-label": "Smoothing of the curves",
    oninput: (event) => { view.smoothing = Math.sqrt(event.target.value / 100); if (event.target.value === "0") view.smoothing = 0;
      value.textContent = event.target.value; redrawCharts(); },
  });
  const reset = el("button", { type: "button", class: "quiet", style: "line-height:1.4;padding:2px 9px;font-size:12px", hidden: true, onclick: () => zoomTo(null) }, "Show all steps");
  whenZoomed = () => { reset.hidden = view.zoom === null; };
  const axes = ["step", "tokens"].map((name) => el("button", {
    type: "button", "aria-pressed": String(view.x === name),
    onclick: () => { view.x = name; axes.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.name === name))); zoomTo(null); },
    "data-name": name,
  }, name === "step" ? "steps" : "tokens"));
  const marks = [];
  if (data.runs.some((run) => restarts(run) > 0)) {
    marks.push(el("span", { class: "key" }, svg("svg", { width: 8, height: 14, "aria-hidden": true }, svg("line", { class: "restart", x1: 4, x2: 4, y1: 0, y2: 14 })), "restart"));
  }
  if (data.runs.some((run) => run.skipped.length > 0)) {
    marks.push(el("span", { class: "key" }, svg("svg", { width: 10, height: 9, "aria-hidden": true }, svg("path", { class: "skipped", d: "M1 8h8l-4-7z" })), "skipped step"));
  }
  main.append(el("div", { class: "toolbar" }, el("label", null, "Smoothing", range, value),
    el("div", { class: "key" }, "over", el("div", { class: "segments", role: "group", "aria-label": "Horizontal axis" }, axes)), marks, reset,
    el("span", { class: "key", style: "color:var(--ink-3)" }, "Drag across a chart to zoom, double-click to see all.")));
}

// Charts: what they show, from which keys of the metrics. `extra` keys are drawn for a single run only.
const pictures = [
  { title: "Loss", unit: "nats a token", keys: [["loss", "loss"], ["val_loss", "validation", true]], extra: [["ce", "cross-entropy"]], when: (run) => run.curves.rec && last(run.curves.rec) > 0 },
  { title: "Recursive loss", keys: [["rec", "all levels"], ["val_rec", "validation", true]], levels: true, needs: (run) => last(run.curves.rec) > 0 },
  { title: "Bits per byte", unit: "of the validation text", keys: [["val_bits_per_byte", "validation", true]] },
  { title: "Learning rate", keys: [["lr", "learning rate"]], fromZero: true, exact: true, text: (value) => numberText(value, 4) },
  { title: "Gradient norm", unit: "before clipping", keys: [["grad_norm", "gradient norm"]], log: true },
  { title: "Throughput", unit: "tokens a second", keys: [["tokens_per_second", "tokens a second"]], fromZero: true, text: shortText },
  { title: "Time not spent computing", unit: "share over all ranks", keys: [["not_compute", "waiting and communicating"]], fromZero: true, text: percentText },
];

function seriesOf(picture, run, index) {
  let keys = [...picture.keys];
  if (!many && picture.extra && picture.when(run)) keys.splice(1, 0, ...picture.extra);
  if (!many && picture.levels) {
    keys.push(...Object.keys(run.curves).filter((key) => key.startsWith("rec level ")).map((key) => [key, key.slice(4)]));
  }
  keys = keys.filter(([key]) => run.curves[key]?.values.some(finite));
  return keys.map(([key, label, dots], i) => ({
    run, dots: Boolean(dots), steps: run.curves[key].steps, values: run.curves[key].values,
    label: many ? (keys.length > 1 || dots ? `${run.name}, ${label}` : run.name) : label, paint: paintOf(many ? index : i),
  }));
}

function curves() {
  const grid = el("div", { class: "charts" });
  for (const picture of pictures) {
    const series = data.runs.filter((run) => !picture.needs || picture.needs(run)).flatMap((run) => seriesOf(picture, run, data.runs.indexOf(run)));
    if (series.length > 0) grid.append(new Chart(series, { ...picture, tick: picture.text }).node);
  }
  main.append(grid);
  if (grid.childElementCount === 0) main.append(el("p", { class: "notice" }, "No step is recorded yet."));
  const thin = data.runs.some((run) => Object.values(run.curves).some((curve) => curve.thinned));
  if (thin) main.append(el("p", { class: "note", style: "margin-top:8px" }, "Long curves are drawn from the least and the greatest value of neighbouring steps."));
}

function evaluations(run) {
  const curve = run.curves.val_loss;
  if (!curve) return null;
  const at = (key, i) => run.curves[key]?.values[run.curves[key].steps.indexOf(curve.steps[i])] ?? null;
  const rows = curve.steps.map((step, i) => [{ number: numberText(step) }, { number: textOfLoss(curve.values[i]) }, { number: textOfLoss(at("val_ce", i)) },
    { number: textOfLoss(at("val_bits_per_byte", i)) }]).reverse();
  return el("details", { class: "card" }, el("summary", null, `Evaluations (${rows.length})`),
    table(["step", "loss", "cross-entropy", "bits per byte"].map((number) => ({ number })), rows, "Evaluations"));
}

function startsTable(run) {
  if (run.starts.length === 0) return null;
  const rows = run.starts.map((start) => [start.time ?? "", { number: numberText(start.step) }, { number: numberText(start.ranks) },
    { number: start.discarded_steps ? numberText(start.discarded_steps) : "none" }, [...new Set(start.hosts ?? [])].join(", "), start.version ?? ""]);
  return el("div", { class: "card stack" }, el("h3", null, "Starts"),
    table(["time", { number: "after step" }, { number: "ranks" }, { number: "steps done again" }, "hosts", "version"], rows, "Starts of the run"));
}

function skippedList(run) {
  if (run.skipped.length === 0) return null;
  const shown = run.skipped.slice(0, 200);
  return el("div", { class: "card stack" }, el("h3", null, "Skipped steps"),
    el("p", null, shown.map((step) => numberText(step)).join("  ·  ") + (run.skipped.length > shown.length ? ` and ${run.skipped.length - shown.length} more` : "")),
    el("p", { class: "note" }, "Their loss or gradient was not finite, so no update was made."));
}

function checkpointsTable(run) {
  const rows = run.checkpoints.map((one) => [one.name, { number: bytesText(one.bytes) }, one.complete ? "complete" : "not complete"]);
  return el("div", { class: "card stack" }, el("h3", null, "Checkpoints"),
    rows.length ? table(["name", { number: "size" }, "state"], rows, "Checkpoints") : el("p", { class: "note" }, "None yet."));
}

function machine(run) {
  const start = run.starts[run.starts.length - 1];
  if (!start) return null;
  const entries = [["Processor", `${start.processor}, ${plural(start.cores, "core")}`], ["Memory", bytesText(start.memory_bytes)],
    ["Device", start.device], ["Hosts", [...new Set(start.hosts ?? [])].join(", ")], ["Ranks", `${start.ranks} of ${plural(start.threads, "thread")}`],
    ["Program", `photon ${start.version}`]];
  return el("div", { class: "card stack" }, el("h3", null, "Machine"),
    el("dl", null, entries.filter(([, value]) => value).map(([name, value]) => [el("dt", null, name), el("dd", null, value)])));
}

function runSections(run, index) {
  const name = many ? `${run.name}: ` : "";
  const ranks = ranksSection(run);
  if (ranks.length) main.append(el("h2", null, `${name}Ranks`), el("div", { class: "stack" }, ranks));
  main.append(el("h2", null, `${name}Record`), el("div", { class: "two" }, [startsTable(run), skippedList(run), checkpointsTable(run), machine(run)]),
    el("div", { class: "stack", style: "margin-top:12px" }, evaluations(run),
      el("details", { class: "card" }, el("summary", null, "Configuration"), el("pre", { tabindex: 0 }, run.config))));
}

header();
summary();
toolbar();
curves();
data.runs.forEach(runSections);
drawAll();
