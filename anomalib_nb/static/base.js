// Put before every widget's own file, so that no widget needs an import or a global.
const SVG = "http://www.w3.org/2000/svg";

// ---- bytes: copied, because on the wire they may lie unaligned ----
function buffer(view) {
  if (!view || !view.byteLength) return new ArrayBuffer(0);
  return view.buffer ? view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength) : view;
}
const floats = (view) => new Float32Array(buffer(view));
const labels = (view) => new Int8Array(buffer(view));

// ---- elements ----
function fill(node, properties, children) {
  for (const [key, value] of Object.entries(properties)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
const make = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);
const draw = (tag, properties = {}, ...children) => fill(document.createElementNS(SVG, tag), properties, children);
const number = (x) => (Number.isFinite(x) ? x.toPrecision(4) : "–");

// ---- one picture out of a square sheet of n ----
function cut(node, url, i, n) {
  const columns = Math.ceil(Math.sqrt(n)), rows = Math.ceil(n / columns);
  const at = (k, m) => (m > 1 ? (100 * k) / (m - 1) : 0);
  node.style.backgroundImage = url ? `url(${url})` : "none";
  node.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
  node.style.backgroundPosition = `${at(i % columns, columns)}% ${at(Math.floor(i / columns), rows)}%`;
}
const sheet = (view) => (view?.byteLength ? URL.createObjectURL(new Blob([buffer(view)], { type: "image/jpeg" })) : "");

// ---- the decision rule: anomalous iff score >= threshold, compared in float32 ----
function judge(score, label, threshold) {
  const t = Math.fround(threshold), n = { tp: 0, fp: 0, fn: 0, tn: 0, flagged: 0 };
  for (let i = 0; i < score.length; i++) {
    const hit = score[i] >= t;
    n.flagged += hit;
    if (label[i] === 1) hit ? n.tp++ : n.fn++;
    else if (label[i] === 0) hit ? n.fp++ : n.tn++;
  }
  return { ...n, precision: n.tp / (n.tp + n.fp), recall: n.tp / (n.tp + n.fn), f1: (2 * n.tp) / (2 * n.tp + n.fp + n.fn) };
}

// ---- writing: handed over at once. Jupyter keeps one message in flight and then sends the last value;
// a delay of our own would let the echo of an older message undo a move that was not yet sent ----
const writer = (model) => (name, value) => {
  model.set(name, value);
  model.save_changes();
};

// ---- listening: many changes of one message lead to one redraw ----
function listen(model, names, redraw) {
  const pairs = names.map((name) => ["change:" + name, redraw]);
  for (const [event, f] of pairs) model.on(event, f);
  return () => { for (const [event, f] of pairs) model.off(event, f); };
}
function once(f) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    queueMicrotask(() => { due = false; f(); });
  };
}

// ---- keys stay in the widget: a notebook takes single letters as commands, and d d deletes the cell that holds it.
// Those with Ctrl, Alt or Meta are the notebook's own ----
function keep(node) {
  node.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  });
}

// ---- keyboard of a slider: arrows, pages, ends ----
const STEPS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
function slides(node, name, read, limits, write) {
  node.setAttribute("aria-label", name);
  node.addEventListener("keydown", (event) => {
    const [low, high] = limits(), ends = { Home: low, End: high };
    const to = event.key in ends ? ends[event.key] : read() + ((STEPS[event.key] ?? NaN) * (high - low)) / 200;
    if (!Number.isFinite(to)) return;
    event.preventDefault();
    event.stopPropagation();
    write(Math.min(high, Math.max(low, to)));
  });
}
