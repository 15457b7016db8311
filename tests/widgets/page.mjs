// A page without a browser: just enough DOM for a widget's script, and a model that records.
// argv: file with {esm, state, script}; `script` is run as an async function of (page) and its result is printed.
import { readFileSync } from "node:fs";

const { esm, state: raw, script } = JSON.parse(readFileSync(process.argv[2]));

const unaligned = (base64) => {                       // as on the wire: bytes may start anywhere
  const bytes = Buffer.from(base64, "base64"), padded = new Uint8Array(3 + bytes.length);
  padded.set(bytes, 3);
  return new DataView(padded.buffer, 3, bytes.length);
};
const state = Object.fromEntries(Object.entries(raw).map(([k, v]) => [k, v?.bytes !== undefined ? unaligned(v.bytes) : v]));
const heard = {}, sent = [];
const model = {
  get: (k) => state[k],
  set: (k, v) => { state[k] = v; for (const f of [...(heard["change:" + k] ?? [])]) f(); },
  save_changes: () => sent.push({ threshold: state.threshold, index: state.index, opacity: state.opacity }),
  on: (e, f) => (heard[e] ??= []).push(f),
  off: (e, f) => { heard[e] = (heard[e] ?? []).filter((g) => g !== f); },
};

const painted = [];
class Node {
  constructor(tag) {
    Object.assign(this, { tag, children: [], dataset: {}, attributes: {}, events: {}, style: {}, classes: new Set() });
    this.classList = { add: (...c) => c.forEach((x) => this.classes.add(x)), toggle: (c, on) => (on ? this.classes.add(c) : this.classes.delete(c)) };
  }
  append(...nodes) { this.children.push(...nodes); }
  replaceChildren(...nodes) { this.children = nodes; }
  setAttribute(k, v) { this.attributes[k] = v; if (k === "class") v.split(" ").forEach((c) => this.classes.add(c)); }
  addEventListener(e, f) { this.events[e] = f; }
  getBoundingClientRect() { return { left: 0, top: 0, width: 640, height: 230 }; }
  setPointerCapture() {}
  focus() { document.activeElement = this; }
  getContext() {
    return { createImageData: (w, h) => ({ data: new Uint8ClampedArray(4 * w * h) }), putImageData: (image) => painted.push(image.data) };
  }
  all(test) { return this.children.flatMap((c) => (c instanceof Node ? [...(test(c) ? [c] : []), ...c.all(test)] : [])); }
  of(name) { return this.all((n) => n.classes.has(name) || n.tag === name || n.attributes["aria-label"] === name); }
}
globalThis.document = { createElement: (t) => new Node(t), createElementNS: (_, t) => new Node(t), activeElement: null };

const event = (more) => ({ preventDefault() {}, stopPropagation() {}, ...more });
const el = new Node("div"), widget = (await import("data:text/javascript," + encodeURIComponent(esm))).default;
const page = {
  el, model, state, sent, painted, heard, event,
  cleanup: widget.render({ model, el }),
  wait: (ms) => new Promise((done) => setTimeout(done, ms)),
  listeners: () => Object.values(heard).reduce((n, fs) => n + fs.length, 0),
};
const result = await new (Object.getPrototypeOf(async () => {}).constructor)("page", script)(page);
console.log(JSON.stringify(result));
