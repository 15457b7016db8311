const BOX = { width: 640, height: 230, left: 44, right: 16, top: 26, bottom: 28 };
const KINDS = [[0, "normal"], [1, "anomalous"], [-1, "unlabelled"]];

// ---- counting: the last bin includes its right edge ----
function binned(score, label, kind, [low, high], bins) {
  const n = new Array(bins).fill(0), scale = high > low ? bins / (high - low) : 0;
  score.forEach((s, i) => { if (label[i] === kind) n[Math.max(0, Math.min(bins - 1, Math.floor((s - low) * scale)))]++; });
  return n;
}

function axes(limits, top, height) {
  const { left, right, width, bottom, top: above } = BOX, group = draw("g", { class: "anb-axis" });
  for (let k = 0; k <= 5; k++) {
    const x = left + (k / 5) * (width - left - right), v = limits[0] + (k / 5) * (limits[1] - limits[0]);
    group.append(draw("text", { x, y: BOX.height - 8, "text-anchor": "middle" }, String(+v.toPrecision(3))));
  }
  for (const k of [...new Set([0, Math.round(top / 2), top])]) {
    group.append(draw("line", { x1: left, x2: width - right, y1: height(k), y2: height(k) }),
      draw("text", { x: left - 8, y: height(k) + 4, "text-anchor": "end" }, String(k)));
  }
  return group;
}

// ---- counts and rates below the plot ----
function board() {
  const cells = {}, node = make("div", { class: "anb-board" });
  const names = { tp: "found", fn: "missed", fp: "false alarms", tn: "passed", precision: "precision", recall: "recall", f1: "F1" };
  for (const [key, text] of Object.entries(names)) {
    cells[key] = make("b", { "data-count": key });
    node.append(make("div", { class: `anb-cell anb-${key}`, title: key.toUpperCase() }, cells[key], make("span", {}, text)));
  }
  const sync = (n) => {
    for (const key of ["tp", "fn", "fp", "tn"]) {
      cells[key].textContent = String(n[key]);
      cells[key].classList.toggle("anb-some", n[key] > 0);
    }
    for (const key of ["precision", "recall", "f1"]) cells[key].textContent = Number.isFinite(n[key]) ? n[key].toFixed(3) : "–";
  };
  return { node, sync };
}

function render({ model, el }) {
  el.classList.add("anb", "anb-score-histogram");
  keep(el);
  const write = writer(model), counts = board();
  const plot = draw("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, class: "anb-plot" });
  const log = make("input", { type: "checkbox", "aria-label": "logarithmic counts" });
  const legend = make("span", { class: "anb-grow anb-legend" });
  el.append(make("div", { class: "anb-bar" }, legend, make("label", {}, log, " log")), plot, counts.node);

  const limits = () => model.get("limits");
  const toX = (v) => BOX.left + ((v - limits()[0]) / (limits()[1] - limits()[0] || 1)) * (BOX.width - BOX.left - BOX.right);
  const toValue = (x) => limits()[0] + ((x - BOX.left) / (BOX.width - BOX.left - BOX.right)) * (limits()[1] - limits()[0]);
  let score, label;

  // ---- the threshold: a line, a handle that takes the focus, and the flagged side tinted ----
  const side = draw("rect", { class: "anb-side", y: BOX.top, height: BOX.height - BOX.top - BOX.bottom });
  const rule = draw("line", { class: "anb-rule", y1: BOX.top - 4, y2: BOX.height - BOX.bottom });
  const knob = draw("circle", { class: "anb-knob", cy: BOX.top - 4, r: 7 });
  const text = draw("text", { class: "anb-value", y: 12, "text-anchor": "middle" });
  const handle = draw("g", { class: "anb-handle", tabindex: 0, role: "slider" }, rule, knob, text);
  const chosen = draw("path", { class: "anb-mark" });
  slides(handle, "threshold", () => model.get("threshold"), limits, (v) => write("threshold", v));

  const build = () => {
    score = floats(model.get("pred_score"));
    label = labels(model.get("gt_label"));
    const bins = model.get("bins"), scaled = model.get("log") ? (n) => Math.log1p(n) : (n) => n;
    const all = KINDS.map(([kind, name]) => [name, binned(score, label, kind, limits(), bins)]).filter(([, n]) => n.some((k) => k));
    const top = Math.max(1, ...all.flatMap(([, n]) => n));
    const height = (n) => BOX.height - BOX.bottom - (scaled(n) / scaled(top)) * (BOX.height - BOX.top - BOX.bottom);
    const wide = (BOX.width - BOX.left - BOX.right) / bins;
    const bars = all.map(([name, n]) => draw("g", { class: `anb-bars anb-${name}` }, ...n.map((k, i) =>
      draw("rect", { x: BOX.left + i * wide + 0.5, width: Math.max(1, wide - 1), y: height(k), height: BOX.height - BOX.bottom - height(k) }))));
    legend.replaceChildren(...all.map(([name, n]) => make("span", { class: `anb-key anb-${name}` }, `${name} ${n.reduce((a, b) => a + b, 0)}`)));
    plot.replaceChildren(axes(limits(), top, height), side, ...bars, chosen, handle);
    log.checked = model.get("log");
    redraw();
  };
  const redraw = () => {
    const t = model.get("threshold"), x = Math.max(BOX.left, Math.min(BOX.width - BOX.right, toX(t)));
    side.setAttribute("x", x);
    side.setAttribute("width", BOX.width - BOX.right - x);
    rule.setAttribute("x1", x);
    rule.setAttribute("x2", x);
    knob.setAttribute("cx", x);
    text.setAttribute("x", Math.max(BOX.left + 12, Math.min(BOX.width - 36, x)));
    text.textContent = number(t);
    for (const [key, v] of [["now", t], ["min", limits()[0]], ["max", limits()[1]]]) handle.setAttribute("aria-value" + key, v);
    counts.sync(judge(score, label, t));
    mark();
  };
  const mark = () => {
    const i = model.get("index"), y = BOX.height - BOX.bottom;
    chosen.setAttribute("d", i >= 0 && i < score.length ? `M ${toX(score[i])} ${y} l -6 10 h 12 z` : "");
  };

  // ---- the pointer: press anywhere in the plot, and the line follows ----
  const move = (event) => {
    const box = plot.getBoundingClientRect();
    const v = toValue(((event.clientX - box.left) / box.width) * BOX.width);
    write("threshold", Math.max(limits()[0], Math.min(limits()[1], v)));
  };
  plot.addEventListener("pointerdown", (event) => {
    plot.setPointerCapture(event.pointerId);
    handle.focus();
    move(event);
  });
  plot.addEventListener("pointermove", (event) => { if (event.buttons & 1) move(event); });
  log.addEventListener("change", () => write("log", log.checked));

  build();
  const stops = [
    listen(model, ["pred_score", "gt_label", "limits", "bins", "log"], once(build)),
    listen(model, ["threshold"], redraw),
    listen(model, ["index"], mark),
  ];
  return () => stops.forEach((stop) => stop());
}

export default { render };
