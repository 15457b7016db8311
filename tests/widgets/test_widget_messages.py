"""Widgets without a browser: what Python sends, and what it does with what a browser would send."""

import math
import subprocess
import sys

import comm
import numpy as np
import pytest
import traitlets
from comm.base_comm import BaseComm

from anomalib_nb.widgets import check_widget, example_run, get_widget, list_widgets
from anomalib_nb.widgets.base import read_run, synced

ALL = list_widgets()


class Wire(BaseComm):
    "A comm that keeps what Python sends, and can play the front end."

    def __init__(self, *args, **kwargs):
        self.sent = []
        super().__init__(*args, **kwargs)

    def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
        self.sent.append((msg_type, data or {}, buffers or []))

    def front_end(self, **state):
        self.handle_msg(
            {
                "content": {"data": {"method": "update", "state": state, "buffer_paths": []}},
                "buffers": [],
            }
        )

    def states(self, method="update"):
        return [data["state"] for _, data, _ in self.sent if data.get("method") == method]


@pytest.fixture
def wire(monkeypatch):
    made = []

    def create(*args, **kwargs):
        made.append(Wire(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(comm, "create_comm", create)
    return made


def test_the_four_views_are_there():
    assert ALL == ["Curves", "Gallery", "HeatMap", "ScoreHistogram"]


@pytest.mark.parametrize("name", ALL)
def test_every_widget_keeps_the_rules(name):
    report = check_widget(get_widget(name))
    assert report["traits"] <= 12 and report["lines"] <= 300


@pytest.mark.parametrize("name", ALL)
def test_traits_of_one_kind_have_one_name(name):
    known = {
        "anomaly_map",
        "shape",
        "image",
        "tiles",
        "limits",
        "threshold",
        "image_threshold",
        "opacity",
        "mode",
        "index",
        "pred_score",
        "gt_label",
        "names",
        "ids",
        "show",
        "bins",
        "log",
        "kind",
    }
    assert set(synced(get_widget(name))) <= known


def test_widgets_import_without_torch():
    code = "import sys, anomalib_nb.widgets as w; [w.get_widget(n).example() for n in w.list_widgets()]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_maps_travel_once_in_one_message(wire):
    heat_map = get_widget("HeatMap")(example_run())
    mine = heat_map.comm
    opened = [(d, b) for t, d, b in mine.sent if t == "comm_open"]
    with_maps = [(d, b) for _, d, b in mine.sent if ["anomaly_map"] in d.get("buffer_paths", [])]
    assert len(opened) == 1 and len(with_maps) == 1
    data, buffers = with_maps[0]
    at = data["buffer_paths"].index(["anomaly_map"])
    maps = np.frombuffer(buffers[at], "<f4").reshape(data["state"]["shape"])
    assert np.array_equal(maps, heat_map.state.maps)


def test_dragging_sends_only_the_threshold(wire):
    heat_map = get_widget("HeatMap")(example_run())
    heat_map.comm.sent.clear()
    heat_map.comm.front_end(threshold=0.6)
    assert heat_map.threshold == heat_map.state.threshold == 0.6
    assert heat_map.comm.states() == [], "what the browser said is not sent back as news"
    heat_map.threshold = 0.7
    assert heat_map.comm.states() == [{"threshold": 0.7}]


def test_choosing_an_image_sends_its_map(wire):
    run = example_run()
    heat_map = get_widget("HeatMap")(run, limit=2)
    missing = next(i for i in range(len(run)) if i not in heat_map.state.shown)
    heat_map.comm.sent.clear()
    heat_map.comm.front_end(index=missing)
    ((data, buffers),) = [
        (d, b) for _, d, b in heat_map.comm.sent if ["anomaly_map"] in d.get("buffer_paths", [])
    ]
    assert data["state"]["tiles"][0]["index"] == missing
    assert np.array_equal(
        np.frombuffer(buffers[data["buffer_paths"].index(["anomaly_map"])], "<f4"),
        run.anomaly_map[missing].ravel(),
    )


@pytest.mark.parametrize("name", ALL)
def test_what_a_hand_moves_is_not_echoed(name, wire):
    """Linked in the browser, an echo travels from widget to widget and never comes to rest."""
    widget = get_widget(name)(example_run())
    widget.comm.sent.clear()
    both = {"threshold": 0.6, "index": 3, "image_threshold": 0.5}
    widget.comm.front_end(
        **{trait: value for trait, value in both.items() if widget.has_trait(trait)}
    )
    echoed = [state for state in widget.comm.states("echo_update")]
    assert echoed == [] and widget.threshold == 0.6


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "high"])
def test_a_threshold_that_is_none_is_refused(value):
    heat_map = get_widget("HeatMap")(example_run())
    with pytest.raises(traitlets.TraitError):
        heat_map.threshold = value
    assert heat_map.threshold == 0.3


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_trait_is_named(name):
    widget = get_widget(name).example()
    with pytest.raises(AttributeError, match="Did you mean 'threshold'"):
        widget.treshold = 0.3
    with pytest.raises(AttributeError, match="has no trait 'treshold'"):
        get_widget(name)(example_run(), treshold=0.3)


def test_the_rule_is_float32_on_both_sides():
    score = np.float32(0.1)
    histogram = get_widget("ScoreHistogram")(
        np.array([score, 0.05], np.float32), gt_label=[1, 0], threshold=0.1
    )
    assert float(score) > 0.1 and histogram.counts["tp"] == 1
    histogram.threshold = float(np.nextafter(score, np.float32(1)))
    assert histogram.counts["tp"] == 0


def test_curves_agree_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for decimals in (1, 6):
        score, label = rng.random(200).round(decimals).astype(np.float32), rng.integers(0, 2, 200)
        state = get_widget("Curves")(score, gt_label=label).state
        assert state.area("roc") == pytest.approx(sklearn.roc_auc_score(label, score), abs=1e-12)
        assert state.area("pr") == pytest.approx(
            sklearn.average_precision_score(label, score), abs=1e-12
        )


def test_a_missing_picture_is_grey_and_said(tmp_path):
    with pytest.warns(UserWarning, match="cannot be shown"):
        gallery = get_widget("Gallery")([0.1, 0.9], image=[str(tmp_path / "gone.png")] * 2)
    assert gallery.image[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    "source, arguments, message",
    [
        ([], {}, "empty"),
        ([0.1, math.nan], {}, "NaN"),
        ([0.1, 0.2], {"gt_label": [1]}, "different lengths"),
        (np.zeros((2, 4, 4)), {"pred_score": [1.0]}, "different lengths"),
    ],
)
def test_columns_that_do_not_fit_are_explained(source, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_run(source, **arguments)


def test_a_run_without_maps_has_no_heat_map():
    with pytest.raises(ValueError, match="no anomaly maps"):
        get_widget("HeatMap")(np.array([0.1, 0.9]))


def test_small_defects_survive_a_small_budget():
    maps = np.zeros((1, 301, 299), np.float32)
    maps[0, 150, 7] = 1
    heat_map = get_widget("HeatMap")(maps, threshold=0.5)
    heat_map.state.budget_mb = 0.01
    heat_map.show([0])
    assert heat_map.state.maps.nbytes <= 10_000 and heat_map.mask.sum() == 1
