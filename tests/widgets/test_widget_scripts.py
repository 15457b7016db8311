"""The front ends in Node: they decide, count and write as Python does."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from anomalib_nb.widgets import (
    Curves,
    Gallery,
    HeatMap,
    ScoreHistogram,
    example_run,
    get_widget,
    list_widgets,
)
from anomalib_nb.widgets.base import synced

PAGE = Path(__file__).with_name("page.mjs")


@pytest.fixture
def play(tmp_path):
    if not shutil.which("node"):
        pytest.skip("node is not installed")

    def run(widget, script):
        values = {name: getattr(widget, name) for name in synced(type(widget))}
        state = {
            n: {"bytes": base64.b64encode(v).decode()} if isinstance(v, bytes) else v
            for n, v in values.items()
        }
        (tmp_path / "in.json").write_text(
            json.dumps({"esm": widget._esm, "state": state, "script": script})
        )
        done = subprocess.run(
            ["node", PAGE, tmp_path / "in.json"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("name", list_widgets())
def test_a_view_that_is_closed_listens_no_more(name, play):
    open_and_closed = play(
        get_widget(name).example(),
        """
        const before = page.listeners();
        page.cleanup();
        page.model.set('threshold', 0.1);
        return [before, page.listeners()]""",
    )
    assert open_and_closed[0] > 2 and open_and_closed[1] == 0


def test_the_canvas_hits_what_the_mask_says(play):
    heat_map = HeatMap(example_run())
    edge = float(np.sort(heat_map.state.maps.ravel())[-500])  # a threshold that equals a pixel
    thresholds = [0.1, 0.3, edge, float(np.nextafter(np.float32(edge), np.float32(2))), 0.9, 5.0]
    seen = play(
        heat_map,
        f"""
        const counts = [];
        for (const t of {thresholds}) {{
          page.model.set('threshold', t);
          counts.push([+page.el.of('anb-tiles')[0].dataset.hits, page.el.of('canvas').map(c => c.dataset.hits)]);
        }}
        return counts""",
    )
    for threshold, (total, each) in zip(thresholds, seen, strict=True):
        heat_map.threshold = threshold
        assert total == heat_map.mask.sum() and each == heat_map.mask.sum((1, 2)).tolist()


def test_colours_follow_opacity_and_mode(play):
    heat_map = HeatMap(np.array([[0.0, 0.5, 1.0]] * 3), threshold=0.9)
    heat, mask, outline, faint = play(
        heat_map,
        """
        const last = () => [...page.painted.at(-1)];
        const shots = [last()];
        for (const m of ['mask', 'outline']) { page.model.set('mode', m); shots.push(last()); }
        page.model.set('mode', 'heat'); page.model.set('opacity', 0.1);
        return [...shots, last()]""",
    )
    assert heat[7] > 0 and mask[7] == 0, "below the threshold only the heat mode draws"
    assert heat[8:12] == mask[8:12] == outline[8:12] == [255] * 4, "a hit beside a miss is an edge"
    assert 0 < faint[7] < heat[7]


def test_a_drag_paints_at_once_and_leaves_nothing_unsaved(play):
    painted, moves, saved = play(
        HeatMap(example_run()),
        """
        const range = page.el.of('threshold')[0], before = page.painted.length, moves = [];
        for (let k = 0; k < 50; k++) { range.value = String(0.3 + k / 100); range.events.input(); moves.push(page.state.threshold); }
        return [page.painted.length - before, moves, page.sent.map(s => s.threshold)]""",
    )
    assert painted == 50 * 8 and saved == moves


@pytest.mark.parametrize(
    "key, share",
    [("ArrowRight", 0.005), ("ArrowLeft", -0.005), ("PageUp", 0.05), ("PageDown", -0.05)],
)
def test_keys_move_the_threshold_and_stay_in_the_widget(key, share, play):
    heat_map = HeatMap(example_run(), threshold=0.5)
    low, high = heat_map.limits
    moved, stopped, kept = play(
        heat_map,
        f"""
        const range = page.el.of('threshold')[0]; let stopped = 0;
        range.events.keydown({{ key: '{key}', preventDefault() {{ stopped++ }}, stopPropagation() {{ stopped++ }} }});
        range.events.keydown({{ key: 'a', preventDefault() {{ stopped++ }}, stopPropagation() {{ stopped++ }} }});
        const kept = [{{}}, {{ ctrlKey: true }}, {{ metaKey: true }}, {{ altKey: true }}].map(held => {{
          let count = 0; page.el.events.keydown({{ key: 'm', ...held, stopPropagation() {{ count++ }} }}); return count; }});
        return [page.state.threshold, stopped, kept]""",
    )
    assert moved == pytest.approx(0.5 + share * (high - low)) and stopped == 2
    assert kept == [1, 0, 0, 0], "letters stay in the widget, what is held with Ctrl goes on to the notebook"


def test_a_tile_is_enlarged_and_put_back(play):
    heat_map = HeatMap(example_run())
    seen = play(
        heat_map,
        """
        const hidden = () => page.el.of('anb-tile').filter(t => t.hidden).length, tile = page.el.of('anb-tile')[2], seen = [hidden()];
        tile.events.click(); seen.push(hidden(), page.state.index);
        tile.events.keydown(page.event({ key: 'Escape' })); seen.push(hidden(), page.state.index);
        return seen""",
    )
    assert seen == [0, 7, heat_map.state.shown[2], 0, -1]


def test_the_histogram_counts_as_python_does(play):
    rng = np.random.default_rng(1)
    score, label = rng.normal(size=300).astype(np.float32), rng.integers(-1, 2, 300)
    histogram = ScoreHistogram(score, gt_label=label)
    thresholds = [*np.linspace(-2, 2, 9), float(score[0]), 50.0]
    seen = play(
        histogram,
        f"""
        const cell = k => page.el.all(n => n.attributes['data-count'] === k)[0].textContent;
        const rows = [];
        for (const t of {[float(t) for t in thresholds]}) {{
          page.model.set('threshold', t);
          rows.push(['tp', 'fp', 'fn', 'tn', 'precision', 'recall', 'f1'].map(cell));
        }}
        return rows""",
    )
    for threshold, row in zip(thresholds, seen, strict=True):
        histogram.threshold = float(threshold)
        counts = histogram.counts
        assert [int(v) for v in row[:4]] == [counts[k] for k in ("tp", "fp", "fn", "tn")]
        assert row[4:] == [
            "–" if np.isnan(counts[k]) else f"{counts[k]:.3f}"
            for k in ("precision", "recall", "f1")
        ]


def test_the_histogram_draws_the_bars_of_its_state(play):
    histogram = ScoreHistogram(example_run())
    legend, bars = play(
        histogram,
        """
        await page.wait(1);
        return [page.el.of('anb-key').map(k => k.children[0]), page.el.of('anb-bars').map(g => g.children.map(r => r.attributes.height))]""",
    )
    assert legend == ["normal 16", "anomalous 8"]
    for label, heights in zip((0, 1), bars, strict=True):
        n = histogram.state.bars(label)
        assert (np.array(heights) > 0).tolist() == (n > 0).tolist()


def test_pressing_in_the_plot_moves_the_line(play):
    histogram = ScoreHistogram(np.array([0.0, 1.0], np.float32), gt_label=[0, 1], limits=(0.0, 1.0))
    value, focused = play(
        histogram,
        """
        const plot = page.el.of('svg')[0];
        plot.events.pointerdown({ clientX: 44 + 0.25 * 580, clientY: 50, pointerId: 1 });
        return [page.state.threshold, document.activeElement.attributes.role]""",
    )
    assert value == pytest.approx(0.25) and focused == "slider"


def test_the_gallery_orders_marks_and_divides_as_its_state_says(play):
    gallery = Gallery(example_run())
    state = gallery.state
    for threshold, show in ((0.45, "all"), (0.6, "all"), (0.45, "wrong"), (0.45, "normal")):
        gallery.threshold, gallery.show = threshold, show
        scores, line, wrong, flagged = play(
            gallery,
            """
            const grid = page.el.of('anb-thumbs')[0], nodes = grid.children;
            const line = nodes.findIndex(n => n.classes.has('anb-line'));
            return [nodes.filter(n => n.tag === 'button').map(n => n.attributes.title), line, +grid.dataset.wrong, +grid.dataset.flagged]""",
        )
        keep = {"all": np.full(24, True), "wrong": state.wrong, "normal": state.gt_label == 0}[show]
        order = [i for i in np.argsort(-state.pred_score, kind="stable") if keep[i]]
        assert [title.split(":")[0] for title in scores] == [gallery.names[i] for i in order]
        assert (
            line == (keep & state.flagged).sum()
            and wrong == state.wrong.sum()
            and flagged == state.flagged.sum()
        )


def test_a_click_and_an_arrow_choose_an_image(play):
    gallery = Gallery(example_run())
    order = np.argsort(-gallery.state.pred_score, kind="stable")
    clicked, next_one = play(
        gallery,
        """
        const grid = page.el.of('anb-thumbs')[0], first = grid.children[0];
        first.events.click();
        const clicked = page.state.index;
        document.activeElement = first;
        grid.events.keydown(page.event({ key: 'ArrowRight' }));
        return [clicked, page.state.index]""",
    )
    assert [clicked, next_one] == order[:2].tolist()


def test_the_curves_are_those_of_the_state(play):
    rng = np.random.default_rng(2)
    score, label = rng.random(60).round(1).astype(np.float32), rng.integers(-1, 2, 60)
    curves = Curves(score, gt_label=label)
    recall = curves.state.rates["recall"]
    for kind in ("roc", "pr"):
        curves.kind = kind
        shown, note = play(
            curves, "return [page.el.of('b')[0].textContent, page.el.of('anb-note')[0].textContent]"
        )
        assert float(shown.split()[-1]) == pytest.approx(curves.area, abs=5e-5)
        assert float(note.split()[-1 if kind == "roc" else 1].strip(",")) == pytest.approx(
            recall, abs=6e-4
        )


def test_the_operating_point_can_be_dragged_to_the_best_one(play):
    curves = Curves(
        np.array([0.1, 0.2, 0.6, 0.9], np.float32), gt_label=[0, 0, 1, 1], threshold=0.15
    )
    value = play(
        curves,
        """
        const plot = page.el.of('svg')[0];
        plot.events.pointerdown({ clientX: 44 / 318 * 640, clientY: 14 / 314 * 230, pointerId: 1 });
        return page.state.threshold""",
    )
    assert value == pytest.approx((np.float32(0.6) + np.float32(0.2)) / 2)


def test_a_run_of_one_kind_has_no_curve(play):
    assert play(
        Curves([0.1, 0.2], gt_label=[0, 0]), "return page.el.of('b')[0].textContent"
    ).startswith("needs normal")
