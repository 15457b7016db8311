const BOX = { size: 260, left: 44, right: 14, top: 14, bottom: 40 };
const AXES = { roc: ["false positive rate", "true positive rate"], pr: ["recall", "precision"] };

// ---- every operating point: thresholds half way between neighbouring scores, ties in one step ----
function operating(score, label) {
  const order = Array.from(score.keys()).filter((i) => label[i] >= 0).sort((a, b) => score[b] - score[a]);
  const positives = order.filter((i) => label[i] === 1).length, negatives = order.length - positives;
  const points = [{ tp: 0, fp: 0, threshold: Infinity }];
  let tp = 0, fp = 0;
  order.forEach((i, k) => {
    label[i] === 1 ? tp++ : fp++;
    const next = order[k + 1], here = score[i];
    if (next !== undefined && score[next] === here) return;
    points.push({ tp, fp, threshold: next === undefined ? here : (here + score[next]) / 2 });
  });
  return { points, positives, negatives };
}

function place(kind, { tp, fp }, { positives, negatives }) {
  if (kind === "roc") return [fp / negatives, tp / positives];
  return [tp / positives, tp + fp ? tp / (tp + fp) : 1];
}

// ---- area: trapezoids under ROC, steps under PR (average precision) ----
function area(kind, run) {
  let sum = 0;
  for (let k = 1; k < run.points.length; k++) {
    const [x0, y0] = place(kind, run.points[k - 1], run), [x1, y1] = place(kind, run.points[k], run);
    sum += (x1 - x0) * (kind === "roc" ? (y0 + y1) / 2 : y1);
  }
  return sum;
}

function render({ model, el }) {
  el.classList.add("anb", "anb-curves");
  keep(el);
  const write = writer(model), { size, left, right, top, bottom } = BOX;
  const full = [left + size + right, top + size + bottom];
  const toX = (v) => left + v * size, toY = (v) => top + (1 - v) * size;
  const plot = draw("svg", { viewBox: `0 0 ${full[0]} ${full[1]}`, class: "anb-plot" });
  const kinds = make("select", { "aria-label": "which curve" },
    ...Object.keys(AXES).map((name) => make("option", { value: name }, name.toUpperCase())));
  const value = make("b", { class: "anb-number" }), note = make("div", { class: "anb-note" });
  el.append(make("div", { class: "anb-bar" }, kinds, value), plot, note);

  const line = draw("path", { class: "anb-curve" }), fillArea = draw("path", { class: "anb-area" });
  const cross = draw("path", { class: "anb-cross" }), point = draw("circle", { r: 7, class: "anb-knob" });
  const handle = draw("g", { class: "anb-handle", tabindex: 0, role: "slider" }, cross, point);
  let score, label, run, places;

  const frame = ([xName, yName]) => {
    const group = draw("g", { class: "anb-axis" });
    for (const v of [0, 0.25, 0.5, 0.75, 1]) {
      group.append(draw("line", { x1: toX(0), x2: toX(1), y1: toY(v), y2: toY(v) }), draw("line", { x1: toX(v), x2: toX(v), y1: toY(0), y2: toY(1) }));
      if (v % 0.5 === 0) group.append(draw("text", { x: toX(v), y: toY(0) + 15, "text-anchor": "middle" }, String(v)),
        draw("text", { x: left - 6, y: toY(v) + 4, "text-anchor": "end" }, String(v)));
    }
    group.append(draw("text", { x: toX(0.5), y: full[1] - 6, "text-anchor": "middle" }, xName),
      draw("text", { x: 12, y: toY(0.5), "text-anchor": "middle", transform: `rotate(-90 12 ${toY(0.5)})` }, yName));
    return group;
  };

  const build = () => {
    const kind = model.get("kind");
    score = floats(model.get("pred_score"));
    label = labels(model.get("gt_label"));
    run = operating(score, label);
    places = run.points.map((p) => place(kind, p, run));
    const steps = places.map(([x, y], k) => `${k ? (kind === "pr" ? `V ${toY(y)} H ${toX(x)}` : `L ${toX(x)} ${toY(y)}`) : `M ${toX(x)} ${toY(y)}`}`).join(" ");
    line.setAttribute("d", steps);
    fillArea.setAttribute("d", `${steps} V ${toY(0)} H ${toX(0)} Z`);
    const known = run.positives && run.negatives;
    value.textContent = known ? `${kind === "roc" ? "AUROC" : "average precision"} ${area(kind, run).toFixed(4)}` : "needs normal and anomalous images";
    kinds.value = kind;
    plot.replaceChildren(frame(AXES[kind]), ...(known ? [fillArea, line, handle] : []));
    if (known) redraw();
  };
  const redraw = () => {
    const kind = model.get("kind"), t = model.get("threshold"), n = judge(score, label, t);
    const [x, y] = place(kind, n, run);
    point.setAttribute("cx", toX(x));
    point.setAttribute("cy", toY(y));
    cross.setAttribute("d", `M ${toX(x)} ${toY(0)} V ${toY(y)} H ${toX(0)}`);
    handle.setAttribute("aria-valuenow", t);
    note.textContent = `${AXES[kind][0]} ${x.toFixed(3)}, ${AXES[kind][1]} ${y.toFixed(3)}`;
  };

  // ---- pointer and arrows walk over the operating points ----
  const nearest = (px, py) => places.reduce((best, [x, y], k) => {
    const d = (toX(x) - px) ** 2 + (toY(y) - py) ** 2;
    return k && d < best.d ? { d, k } : best;
  }, { d: Infinity, k: 1 }).k;
  const move = (event) => {
    const box = plot.getBoundingClientRect();
    const at = [((event.clientX - box.left) / box.width) * full[0], ((event.clientY - box.top) / box.height) * full[1]];
    if (run.points.length > 1) write("threshold", run.points[nearest(...at)].threshold);
  };
  plot.addEventListener("pointerdown", (event) => {
    plot.setPointerCapture(event.pointerId);
    handle.focus();
    move(event);
  });
  plot.addEventListener("pointermove", (event) => { if (event.buttons & 1) move(event); });
  const limits = () => [Math.min(...score), Math.max(...score)];
  slides(handle, "threshold", () => model.get("threshold"), limits, (v) => write("threshold", v));
  kinds.addEventListener("change", () => write("kind", kinds.value));

  build();
  const stops = [listen(model, ["pred_score", "gt_label", "kind"], once(build)), listen(model, ["threshold"], () => run.positives && run.negatives && redraw())];
  return () => stops.forEach((stop) => stop());
}

export default { render };
