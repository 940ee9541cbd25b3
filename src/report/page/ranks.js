// The layout, where the ranks' time goes, and timelines of a step.
const kinds = [
  { key: "forward", label: "forward", paint: color("blue"), test: /^(forward|recompute)/ },
  { key: "backward", label: "backward", paint: color("orange"), test: /^backward/ },
  { key: "sums", label: "sums over ranks", paint: color("violet"), test: /^(all_reduce|reduce_scatter|all_gather|wait|clip_norm)/ },
  { key: "optimizer", label: "optimizer", paint: color("green"), test: /^step$/ },
  { key: "send", label: "sending", paint: color("yellow"), test: /^send/ },
  { key: "other", label: "evaluation, saving", paint: color("pink"), test: /^(evaluate|save)/ },
  { key: "load", label: "data, records", paint: color("ink-3"), test: /^(load|record)/ },
];
const waiting = { key: "wait", label: "waiting", paint: color("track") };
const kindOf = (name, category) => (category === "wait" ? waiting : kinds.find((kind) => kind.test.test(name)) ?? kinds[kinds.length - 1]);
const activities = [["compute", color("blue")], ["wait", color("line-2")], ["communication", color("violet")]];

function layoutPicture(run) {
  const layout = run.layout;
  const hosts = run.starts.length ? run.starts[run.starts.length - 1].hosts ?? [] : [];
  const several = new Set(hosts).size > 1;
  const parts = [];
  let rank = 0;
  layout.stages.forEach((stage, s) => {
    if (s > 0) {
      const crossing = [...new Set(layout.crossings.filter((c) => c.from < s && c.to >= s).map((c) => c.tensor))].join(", ");
      parts.push(el("div", { class: "between", "aria-label": `${crossing} go forward, their gradients come back` },
        el("span", null, crossing), el("div", { class: "arrow right" }), el("div", { class: "arrow left" }), el("span", null, "gradients")));
    }
    const cards = [];
    for (let k = 0; k < stage.shards; ++k, ++rank) {
      if (k >= 8) continue;
      const where = several && hosts[rank] ? ` on ${hosts[rank]}` : "";
      cards.push(el("div", { class: "rank" }, el("b", null, `rank ${rank}`), stage.shards > 1 ? `, shard ${k + 1} of ${stage.shards}` : "", where));
    }
    if (stage.shards > 8) cards.push(el("div", { class: "rank" }, `and ${stage.shards - 8} more shards`));
    parts.push(el("div", { class: "stage" }, el("div", { class: "name" }, layout.stages.length > 1 ? `stage ${s + 1}` : "the whole model"),
      el("div", { class: "chips" }, stage.modules.map((name) => el("span", { class: "chip" }, name))), cards));
  });
  const each = layout.stages.reduce((sum, stage) => sum + stage.shards, 0);
  const replicas = layout.replicas > 1
    ? `${plural(layout.replicas, "replica")} of ${plural(each, "rank")}; the first is shown, the others are like it. ` : "";
  return el("div", { class: "card stack" }, el("h3", null, "Layout"), el("div", { class: "stages" }, parts),
    el("p", { class: "note" }, `${replicas}A step is ${plural(layout.batch_size, "sequence")}: ` +
      `${plural(layout.microbatches, "microbatch")}${layout.microbatches === 1 ? "" : "es"}`.replace("microbatchs", "microbatch") +
      ` of ${layout.microbatch_size} on each replica.` + (each > 1 ? " The shards of a stage share the groups of every microbatch." : "")));
}

function rankTable(run) {
  const means = run.rank_means;
  const predicted = run.predicted?.rank_seconds;
  const count = Math.min(means.compute.length, 64);
  let longest = means.step_seconds;
  if (run.predicted) longest = Math.max(longest, run.predicted.seconds);
  const bar = (seconds, title) => el("div", { class: "bar", title }, activities.map(([name, paint]) =>
    el("i", { style: `background:${paint};width:${(seconds(name) / longest * 100).toFixed(2)}%` })));
  const rows = [];
  for (let rank = 0; rank < count; ++rank) {
    const mine = (name) => means[name][rank];
    const theirs = predicted ? predicted[rank % predicted.length] : null;
    const total = mine("compute") + mine("wait") + mine("communication");
    rows.push([`rank ${rank}`,
      [bar(mine, "measured"), theirs ? bar((name) => theirs[name], "predicted") : null],
      ...activities.map(([name]) => ({ number: secondsText(mine(name)) })),
      { number: percentText(total > 0 ? mine("compute") / total : 0) },
      { number: percentText(means.slowest[rank] / means.num_steps) }]);
  }
  const legend = activities.map(([name, paint]) => el("span", { class: "entry" },
    el("span", { class: "swatch block", style: `background:${paint}` }), name === "wait" ? "waiting" : name));
  return el("div", { class: "card stack" }, el("h3", null, "Where the ranks' time goes"),
    el("p", { class: "note" }, `Mean of ${plural(means.num_steps, "step")} of ${secondsText(means.step_seconds)}, evaluation and saving left out.` +
      (predicted ? " The thin bars are the prediction." : "")),
    el("div", { class: "legend" }, legend),
    table(["rank", "a step", ...activities.map(([name]) => ({ number: name === "wait" ? "waiting" : name })), { number: "computing" },
      { number: "slowest in" }], rows, "Seconds of a step that each rank computes, waits and communicates"),
    count < means.compute.length ? el("p", { class: "note" }, `The first ${count} of ${means.compute.length} ranks are shown.`) : null);
}

class Timeline {
  // `longest`: seconds of the whole width, so that two timelines can be compared.
  constructor(title, note, timeline, longest) {
    this.timeline = timeline;
    this.longest = longest;
    this.plot = svg("svg", { role: "img", "aria-label": `${title}: ${plural(timeline.ranks.length, "rank")}, ${secondsText(timeline.seconds)}` });
    const used = new Set(timeline.ranks.flatMap((rank) => rank.spans.map(([name, category]) => kindOf(name, category).key)));
    const legend = [...kinds.filter((kind) => used.has(kind.key)), waiting].map((kind) => el("span", { class: "entry" },
      el("span", { class: `swatch block${kind === waiting ? " waiting" : ""}`, style: `background:${kind.paint}` }), kind.label));
    this.node = el("div", { class: "card stack timeline" }, el("h3", null, title), el("p", { class: "note" }, note),
      el("div", { class: "legend" }, legend), this.plot);
    drawToWidth(this.plot, (width) => this.draw(width));
    this.plot.addEventListener("pointermove", (event) => this.tell(event));
    this.plot.addEventListener("pointerleave", hideTooltip);
  }

  draw(width) {
    const rows = this.timeline.ranks;
    const [row, gap, top] = [22, 6, 4];
    const left = width < 520 ? 56 : 64;
    const right = width - 8;
    const bottom = top + rows.length * (row + gap);
    const micro = this.longest * 1e6;
    const x = (time) => left + time / micro * (right - left);
    const nodes = [];
    for (const tick of linearTicks(0, this.longest, Math.max(2, Math.floor(width / 120)))) {
      const place = x(tick * 1e6);
      nodes.push(svg("line", { class: "grid", x1: place, x2: place, y1: top, y2: bottom }),
        svg("text", { x: place, y: bottom + 14, "text-anchor": tick === 0 ? "start" : place > right - 24 ? "end" : "middle" }, tick === 0 ? "0" : secondsText(tick)));
    }
    rows.forEach((rank, index) => {
      const y = top + index * (row + gap);
      nodes.push(svg("text", { class: "label", x: 0, y: y + 15 }, `rank ${rank.rank}`),
        svg("rect", { x: left, y, width: Math.max(x(this.timeline.seconds * 1e6) - left, 0), height: row, rx: 3, fill: "var(--track)" }));
      rank.spans.forEach(([name, category, begin, length], i) => {
        const kind = kindOf(name, category);
        const wide = (length / micro) * (right - left);
        if (wide < 0.15) return;
        nodes.push(svg("rect", { x: x(begin).toFixed(2), y, width: Math.max(wide - (wide > 4 ? 1 : 0), 0.5).toFixed(2), height: row,
          rx: wide > 6 ? 2 : 0, fill: kind.paint, "data-rank": index, "data-span": i }));
        const number = /^(forward|backward)\S* (\d+)\b/.exec(name)?.[2];
        if (number !== undefined && wide > 9 + 6 * number.length) {
          nodes.push(svg("text", { class: "in-span", x: (x(begin) + wide / 2).toFixed(1), y: y + 15, "text-anchor": "middle" }, number));
        }
      });
    });
    this.plot.setAttribute("viewBox", `0 0 ${width} ${bottom + 20}`);
    this.plot.setAttribute("height", bottom + 20);
    this.plot.replaceChildren(...nodes);
  }

  tell(event) {
    const { rank, span } = event.target.dataset ?? {};
    if (rank === undefined) return hideTooltip();
    const track = this.timeline.ranks[rank];
    const [name, category, begin, length] = track.spans[span];
    showTooltip(event, name, [[kindOf(name, category).paint, `rank ${track.rank}: ${track.label}`, secondsText(length * 1e-6)],
      [null, "begins at", secondsText(begin * 1e-6)]]);
  }
}

function ranksSection(run) {
  const parts = [];
  if (run.layout_problem) parts.push(el("p", { class: "notice" }, `The layout cannot be shown: ${run.layout_problem}`));
  if (run.layout) parts.push(layoutPicture(run));
  if (run.rank_means) parts.push(rankTable(run));
  const several = (run.predicted?.ranks.length ?? 0) > 1 || Boolean(run.measured);
  // On one scale, unless one of them would be too short to be read.
  let [ours, theirs] = [run.measured?.seconds ?? 0, run.predicted?.seconds ?? 0];
  const comparable = Math.max(ours, theirs) <= 3 * Math.min(ours, theirs);
  if (comparable) ours = theirs = Math.max(ours, theirs);
  if (run.predicted && several) {
    const { predicted } = run;
    parts.push(new Timeline("A step as the schedule predicts it",
      `${secondsText(predicted.seconds)}, of which the ranks spend ${percentText(predicted.bubble)} not computing, ${predicted.basis}.`, predicted, theirs).node);
  }
  if (run.measured) {
    const { measured } = run;
    parts.push(new Timeline("A step as it was measured",
      `Step ${numberText(measured.step)} in ${secondsText(measured.seconds)}, the quickest one of the trace` +
      (measured.num_ranks > 1 ? `; the ranks' clocks agree to ${secondsText(measured.uncertainty_us * 1e-6)}.` : ".") +
      (run.predicted && several && !comparable ? " Its scale differs from that of the prediction." : "") +
      (measured.num_ranks > measured.ranks.length ? ` The first ${measured.ranks.length} of ${measured.num_ranks} ranks are shown.` : ""),
      measured, ours).node);
  } else if (run.rank_means) {
    parts.push(el("p", { class: "note" }, "For the measured timeline of a step, train with --trace and give the file to photon report."));
  }
  return parts;
}
