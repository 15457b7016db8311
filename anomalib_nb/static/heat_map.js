// ---- colours: a glow that grows towards the threshold, from nothing over violet and red to pale yellow ----
const STOPS = [[0, 0, 4], [60, 15, 110], [140, 41, 129], [221, 73, 104], [253, 159, 108], [252, 253, 191]];
const rgba = (r, g, b, a) => ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;

function shades(opacity, [low, high], threshold) {
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const near = Math.min(1, ((i / 255) * (high - low)) / Math.max(1e-12, threshold - low));   // 1 at the threshold
    const x = near * (STOPS.length - 1), k = Math.min(STOPS.length - 2, Math.floor(x));
    const [r, g, b] = STOPS[k].map((c, j) => Math.round(c + (x - k) * (STOPS[k + 1][j] - c)));
    const rise = Math.max(0, (near - 0.4) / 0.6);
    return rgba(r, g, b, Math.round(255 * opacity * rise * rise * (3 - 2 * rise)));
  });
}

// ---- one map: colour every pixel, tint and outline those at or above the threshold ----
function paint(canvas, map, shade, [h, w], threshold, palette, opacity, mode) {
  const t = Math.fround(threshold), context = canvas.getContext("2d"), image = context.createImageData(w, h);
  const out = new Uint32Array(image.data.buffer), heat = mode === "heat";
  const tint = rgba(255, 32, 78, mode === "outline" ? 0 : Math.round(255 * Math.max(opacity, 0.35)));
  const edge = rgba(255, 255, 255, 255);
  let hits = 0;
  for (let y = 0, i = 0; y < h; y++) {
    for (let x = 0; x < w; x++, i++) {
      if (!(map[i] >= t)) { out[i] = heat ? palette[shade[i]] : 0; continue; }
      hits++;
      const inner = x && y && x < w - 1 && y < h - 1 && map[i - 1] >= t && map[i + 1] >= t && map[i - w] >= t && map[i + w] >= t;
      out[i] = inner ? tint : edge;
    }
  }
  context.putImageData(image, 0, 0);
  canvas.dataset.hits = hits;
  return hits;
}

// ---- the value of every pixel as one of 256 shades ----
function shade(values, [low, high]) {
  const scale = high > low ? 255 / (high - low) : 0;
  return Uint8Array.from(values, (v) => Math.max(0, Math.min(255, (v - low) * scale)));
}

// ---- the controls above the pictures ----
function controls(model, write) {
  const range = make("input", { type: "range", step: "any", class: "anb-grow" });
  const value = make("output", { class: "anb-number" }), hits = make("span", { class: "anb-muted" });
  const opacity = make("input", { type: "range", min: 0, max: 1, step: 0.05, class: "anb-short" });
  const mode = make("select", { "aria-label": "what is drawn" },
    ...["heat", "mask", "outline"].map((name) => make("option", { value: name }, name)));
  range.addEventListener("input", () => write("threshold", +range.value));
  slides(range, "threshold", () => model.get("threshold"), () => model.get("limits"), (v) => write("threshold", v));
  opacity.addEventListener("input", () => write("opacity", +opacity.value));
  slides(opacity, "opacity", () => model.get("opacity"), () => [0, 1], (v) => write("opacity", v));
  mode.addEventListener("change", () => write("mode", mode.value));
  const bar = make("div", { class: "anb-bar" },
    make("label", {}, "pixel threshold"), range, value, hits, make("label", {}, "opacity"), opacity, mode);
  const sync = (total, pixels) => {
    const [low, high] = model.get("limits");
    range.min = low; range.max = high; range.value = model.get("threshold");
    value.textContent = number(model.get("threshold"));
    hits.textContent = `${total} px, ${((100 * total) / (pixels || 1)).toFixed(1)} %`;
    opacity.value = model.get("opacity");
    mode.value = model.get("mode");
  };
  return { bar, sync };
}

// ---- one tile: picture, map on top, name and verdict below ----
function tile(about, url, i, n, [h, w], toggle) {
  const canvas = make("canvas", { width: w, height: h, role: "img", "aria-label": `anomaly map of ${about.name}` });
  const picture = make("div", { class: "anb-picture" }, canvas);
  picture.style.aspectRatio = `${w} / ${h}`;
  cut(picture, url, i, n);
  const verdict = make("span", { class: "anb-badge" });
  const node = make("figure", { class: "anb-tile", tabindex: 0, role: "button", title: "enlarge" },
    picture, make("figcaption", {}, make("span", { class: "anb-name" }, about.name), verdict));
  node.addEventListener("click", toggle);
  node.addEventListener("keydown", (event) => {
    if (!["Enter", " ", "Escape"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    toggle();
  });
  return { node, canvas, verdict, about };
}

function judgeTile({ node, verdict, about }, threshold) {
  const flagged = about.pred_score === null ? null : Math.fround(about.pred_score) >= Math.fround(threshold);
  const wrong = flagged !== null && about.gt_label >= 0 && flagged !== (about.gt_label === 1);
  verdict.textContent = flagged === null ? "" : `${about.pred_score.toPrecision(3)} ${wrong ? (flagged ? "false alarm" : "missed") : flagged ? "anomalous" : "normal"}`;
  verdict.classList.toggle("anb-hot", flagged === true);
  node.classList.toggle("anb-wrong", wrong);
}

function render({ model, el }) {
  el.classList.add("anb", "anb-heat-map");
  keep(el);
  const write = writer(model), grid = make("div", { class: "anb-tiles" }), { bar, sync } = controls(model, write);
  el.append(bar, grid);
  let tiles = [], values, levels, url = "";

  const build = () => {
    const [n, h, w] = model.get("shape"), about = model.get("tiles");
    values = floats(model.get("anomaly_map"));
    levels = shade(values, model.get("limits"));
    if (url) URL.revokeObjectURL(url);
    url = sheet(model.get("image"));
    tiles = about.slice(0, n).map((a, i) => tile(a, url, i, n, [h, w], () => write("index", model.get("index") === a.index ? -1 : a.index)));
    grid.replaceChildren(...tiles.map((t) => t.node));
    redraw();
  };
  const redraw = () => {
    const [, h, w] = model.get("shape"), opacity = model.get("opacity"), palette = shades(opacity, model.get("limits"), model.get("threshold")), size = h * w;
    let total = 0;
    tiles.forEach((t, i) => {
      const part = [i * size, (i + 1) * size];
      total += paint(t.canvas, values.subarray(...part), levels.subarray(...part), [h, w], model.get("threshold"), palette, opacity, model.get("mode"));
      judgeTile(t, model.get("image_threshold"));
    });
    grid.dataset.hits = total;
    sync(total, size * tiles.length);
    select();
  };
  const select = () => {
    const one = tiles.some((t) => t.about.index === model.get("index"));
    grid.classList.toggle("anb-one", one);
    for (const t of tiles) t.node.hidden = one && t.about.index !== model.get("index");
  };

  build();
  const stops = [
    listen(model, ["anomaly_map", "shape", "image", "tiles", "limits"], once(build)),
    listen(model, ["threshold", "image_threshold", "opacity", "mode"], redraw),
    listen(model, ["index"], select),
  ];
  return () => {
    stops.forEach((stop) => stop());
    if (url) URL.revokeObjectURL(url);
  };
}

export default { render };
