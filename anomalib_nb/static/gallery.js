// ---- which images, in which order ----
const SHOWS = {
  all: () => true,
  wrong: (flagged, label) => label >= 0 && flagged !== (label === 1),
  anomalous: (flagged, label) => label === 1,
  normal: (flagged, label) => label === 0,
};

// places of the images shown, the highest score first
function ordered(ids, score) {
  return Array.from(ids.keys()).sort((a, b) => score[ids[b]] - score[ids[a]] || a - b);
}

// ---- one thumbnail: piece i of the sheet, row id of the run ----
function thumb(i, id, n, url, name, score, choose) {
  const picture = make("div", { class: "anb-picture" }), badge = make("span", { class: "anb-badge" });
  cut(picture, url, i, n);
  const node = make("button", { class: "anb-thumb", type: "button", title: `${name}: ${number(score)}` },
    picture, make("span", { class: "anb-number" }, number(score)), badge);
  node.addEventListener("click", () => choose(id));
  return { node, badge, id };
}

function render({ model, el }) {
  el.classList.add("anb", "anb-gallery");
  keep(el);
  const write = writer(model), count = make("span", { class: "anb-grow" });
  const show = make("select", { "aria-label": "which images" },
    ...Object.keys(SHOWS).map((name) => make("option", { value: name }, name)));
  const line = make("div", { class: "anb-line" }), grid = make("div", { class: "anb-thumbs", role: "listbox", "aria-label": "images" });
  el.append(make("div", { class: "anb-bar" }, count, make("label", {}, "show"), show), grid);
  show.addEventListener("change", () => write("show", show.value));
  let thumbs = [], score, label, ids, url = "";

  // ---- build once per set of images, then only move and mark ----
  const build = () => {
    score = floats(model.get("pred_score"));
    label = labels(model.get("gt_label"));
    ids = model.get("ids");
    if (url) URL.revokeObjectURL(url);
    url = sheet(model.get("image"));
    const names = model.get("names");
    thumbs = ordered(ids, score).map((i) => thumb(i, ids[i], ids.length, url, names[i], score[ids[i]], (id) => write("index", id)));
    redraw();
  };
  const redraw = () => {
    const t = Math.fround(model.get("threshold")), wanted = SHOWS[model.get("show")];
    const above = [], below = [];
    for (const { node, badge, id } of thumbs) {
      const hit = score[id] >= t, miss = SHOWS.wrong(hit, label[id]);
      badge.textContent = miss ? (hit ? "false alarm" : "missed") : label[id] === 1 ? "anomalous" : label[id] === 0 ? "normal" : "";
      node.classList.toggle("anb-wrong", miss);
      node.classList.toggle("anb-hot", label[id] === 1);
      if (wanted(hit, label[id])) (hit ? above : below).push(node);
    }
    const { flagged, fp, fn } = judge(score, label, model.get("threshold")), wrong = fp + fn;
    const part = ids.length < score.length ? `; ${above.length + below.length} of ${ids.length} pictures shown` : "";
    show.value = model.get("show");
    count.textContent = `${flagged} of ${score.length} images flagged` + (label.some((l) => l >= 0) ? `, ${wrong} wrong` : "") + part;
    line.textContent = `▲ flagged   threshold ${number(model.get("threshold"))}   passed ▼`;
    grid.replaceChildren(...above, line, ...below);
    grid.dataset.flagged = flagged;
    grid.dataset.wrong = wrong;
    select();
  };
  const select = () => {
    for (const { node, id } of thumbs) {
      const chosen = id === model.get("index");
      node.classList.toggle("anb-chosen", chosen);
      node.setAttribute("aria-pressed", chosen);
    }
  };

  // ---- arrows walk through the images as they stand on the page ----
  grid.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const nodes = [...grid.children].filter((node) => node !== line);
    const at = nodes.indexOf(document.activeElement);
    const next = nodes[Math.max(0, Math.min(nodes.length - 1, at + step))];
    if (!next) return;
    next.focus();
    write("index", thumbs.find((t) => t.node === next).id);
  });

  build();
  const stops = [
    listen(model, ["pred_score", "gt_label", "image", "names", "ids"], once(build)),
    listen(model, ["threshold", "show"], redraw),
    listen(model, ["index"], select),
  ];
  return () => {
    stops.forEach((stop) => stop());
    if (url) URL.revokeObjectURL(url);
  };
}

export default { render };
