"""Threshold rules against brute force, their promises, and what is missing or wrong."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_nb.core import Batch
from anomalib_nb.metrics import (
    ConformalThreshold,
    CostThreshold,
    F1AdaptiveThreshold,
    ManualThreshold,
    NormalQuantileThreshold,
    TargetFPRThreshold,
    TargetRecallThreshold,
    conformal_threshold,
    cost_threshold,
    f1_adaptive_threshold,
    get_threshold_rule,
    images_needed,
    just_above,
    list_threshold_rules,
    manual_threshold,
    normal_images,
    normal_quantile_threshold,
    read_rule,
    target_fpr_threshold,
    target_recall_threshold,
)
from anomalib_nb.processing import PostProcessor

CALM = settings(derandomize=True, deadline=None, max_examples=60)
SHARES = st.one_of(st.sampled_from([0.0, 0.05, 0.29, 0.5, 0.9, 0.95, 1.0]), st.floats(0, 1))
RULES = {
    "f1_adaptive": f1_adaptive_threshold,
    "target_fpr": lambda s, y: target_fpr_threshold(s, y, 0.1),
    "target_recall": lambda s, y: target_recall_threshold(s, y, 0.9),
    "cost": lambda s, y: cost_threshold(s, y, 5, 1),
    "normal_quantile": lambda s, y: normal_quantile_threshold(s, y, 0.9),
    "conformal": lambda s, y: conformal_threshold(s, y, 0.5),
}


@st.composite
def samples(draw, least=1):
    "A few scores with their labels; drawn from few values, so that ties are common."
    size = draw(st.integers(least, 30))
    values = st.one_of(st.integers(-3, 3), st.floats(-1e3, 1e3, width=32))
    scores = np.array(draw(st.lists(values, min_size=size, max_size=size)), np.float32)
    return scores, np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))


def quiet(function, *arguments):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        value = function(*arguments)
    return value, [str(w.message) for w in said]


def candidates(scores):
    "A threshold in each gap, below all and above all."
    return [-np.inf, *np.unique(scores), np.inf]


# ---- each rule against all thresholds ------------------------------------------------------------


@CALM
@given(samples(), SHARES)
def test_the_recall_is_kept_by_the_largest_such_threshold(sample, recall):
    scores, labels = sample
    threshold = np.float32(target_recall_threshold(scores, labels, recall))
    if not labels.any():
        assert threshold > scores.max()
        return
    reached = [t for t in candidates(scores) if (scores[labels] >= t).mean() >= recall]
    assert (scores[labels] >= threshold).mean() >= recall
    assert ((scores >= threshold) == (scores >= max(reached))).all()


@CALM
@given(samples(least=2), st.floats(0, 20), st.floats(0, 20), st.one_of(st.none(), st.floats(0, 1)))
def test_no_threshold_costs_less(sample, miss, false_alarm, prior):
    scores, labels = sample
    labels[0], labels[1] = False, True
    share = labels.mean() if prior is None else prior

    def cost(t):
        missed, alarms = (scores[labels] < t).mean(), (scores[~labels] >= t).mean()
        return share * miss * missed + (1 - share) * false_alarm * alarms

    threshold = np.float32(cost_threshold(scores, labels, miss, false_alarm, prior))
    assert cost(threshold) <= min(cost(t) for t in candidates(scores)) + 1e-9


def test_costs_count_the_prior():
    scores, labels = np.arange(10.0), np.array([0, 0, 0, 0, 1, 0, 0, 1, 1, 1])
    assert cost_threshold(scores, labels, 1, 1) == 6.5  # one miss
    assert cost_threshold(scores, labels, 100, 1) == 3.5  # two false alarms
    assert cost_threshold(scores, labels, 100, 1, prior=1e-6) == 6.5
    assert cost_threshold(scores, labels, 0, 1) == 6.5  # as cheap as reporting nothing
    assert cost_threshold(scores, labels, 1, 0) <= 4
    assert cost_threshold([1.0, 1.0], [0, 1], 1, 1) == 1  # equal costs: the smallest


@CALM
@given(samples(), SHARES)
def test_a_quantile_lies_where_numpy_says_or_in_the_gap_above(sample, quantile):
    scores, labels = sample
    normal = np.sort(scores[~labels])
    if not len(normal):
        assert math.isnan(quiet(normal_quantile_threshold, scores, labels, quantile)[0])
        return
    threshold = normal_quantile_threshold(scores, labels, quantile)
    level = np.quantile(normal.astype(float), quantile)
    assert threshold >= level - 1e-3
    enough = normal[max(math.ceil(quantile * len(normal) - 1e-9) - 1, 0)]
    following = normal[normal > max(level + 1e-3, enough)]
    assert threshold <= (following[0] if len(following) else just_above(normal)) + 1e-3
    assert math.isinf(threshold) or (normal < threshold).sum() / len(normal) >= quantile


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 0.95, 0.99, 1.0])
def test_a_share_of_the_normal_images_is_below_their_quantile(quantile):
    for n in range(1, 60):
        normal = np.random.default_rng(n).normal(size=n).astype(np.float32)
        threshold = normal_quantile_threshold(normal, np.zeros(n), quantile)
        assert (normal < np.float32(threshold)).sum() / n >= quantile


# ---- the guarantee -------------------------------------------------------------------------------


@CALM
@given(st.integers(1, 60), st.floats(0.01, 0.99))
def test_the_threshold_stands_above_the_order_statistic_of_the_guarantee(n, alpha):
    normal = np.random.default_rng(n).permutation(n).astype(np.float32)
    k = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    threshold, said = quiet(conformal_threshold, normal, np.zeros(n), alpha)
    if k > n:
        assert threshold == math.inf and "Add" in said[0]
    elif k >= 1:
        assert k - 1 < threshold < k and not said


@CALM
@given(st.floats(0.001, 0.999))
def test_so_many_images_are_needed_and_no_more(alpha):
    n = images_needed(alpha)
    assert 1 / (n + 1) <= alpha and (n == 0 or 1 / n > alpha)
    enough = quiet(conformal_threshold, np.arange(n + 1.0), np.eye(n + 1)[-1], alpha)
    assert enough[0] < math.inf or n == 0
    if n > 1:
        too_few, said = quiet(conformal_threshold, np.arange(n - 1.0), np.zeros(n - 1), alpha)
        assert too_few == math.inf and "Add 1 more" in said[0]


@pytest.mark.parametrize("n", [9, 10, 25, 60])
@pytest.mark.parametrize("digits", [3, 0])  # hardly any ties, and hardly anything else
def test_the_false_alarms_of_new_parts_stay_within_the_budget(n, digits):
    alpha, times = 0.1, 4000
    drawn = np.random.default_rng(0).lognormal(size=(times, n + 1)).round(digits)
    hits = [part[n] >= conformal_threshold(part[:n], np.zeros(n), alpha) for part in drawn]
    noise = 3 * math.sqrt(alpha * (1 - alpha) / times)
    assert np.mean(hits) <= alpha + noise
    if digits:
        assert np.mean(hits) >= alpha - 2 / (n + 1) - noise  # and is not kept by reporting nothing


def test_maps_are_judged_image_by_image():
    maps = np.zeros((6, 4, 4), np.float32)
    maps[:, 1, 2] = [1, 2, 3, 4, 5, 99]
    masks = np.zeros((6, 4, 4), bool)
    masks[5, 1, 2] = True
    assert normal_images(maps, masks).tolist() == [1, 2, 3, 4, 5]
    assert conformal_threshold(maps, masks, 0.4) == 4.5  # two of six places may be above
    rule = ConformalThreshold(0.4)
    for i in range(6):
        rule.update(maps[i : i + 1], masks[i : i + 1])
    assert rule.compute() == 4.5
    assert normal_quantile_threshold(maps, masks, 0.5) == 3.5


# ---- what is missing or extreme ------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
@CALM
@given(samples())
def test_every_threshold_is_in_single_precision(name, sample):
    threshold, _ = quiet(RULES[name], *sample)
    assert math.isnan(threshold) or float(np.float32(threshold)) == threshold


@pytest.mark.parametrize("name", RULES)
def test_only_normal_images_report_nothing_beyond_their_budget(name):
    normal = np.arange(20, dtype=np.float32)
    threshold, _ = quiet(RULES[name], normal, np.zeros(20))
    budget = {"target_fpr": 2, "normal_quantile": 2, "conformal": 10}.get(name, 0)
    assert (normal >= threshold).sum() <= budget


@pytest.mark.parametrize("name", RULES)
def test_only_anomalous_images(name):
    threshold, said = quiet(RULES[name], [5.0, 4.0, 6.0], [1, 1, 1])
    expected = {"normal_quantile": math.nan, "conformal": math.inf}.get(name, 4.0)
    assert threshold == expected or (math.isnan(threshold) and math.isnan(expected))
    assert len(said) == (name in ("normal_quantile", "conformal"))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("label", [0, 1])
def test_a_single_image(name, label):
    threshold, _ = quiet(RULES[name], [3.0], [label])
    if not math.isnan(threshold):
        assert (3 >= threshold) == (label == 1 and threshold < math.inf)


@pytest.mark.parametrize("name", RULES)
def test_constant_scores(name):
    threshold, _ = quiet(RULES[name], np.full(6, 7.0), [0, 0, 0, 0, 0, 1])
    assert threshold == 7 if name in ("f1_adaptive", "target_recall", "cost") else threshold > 7


@pytest.mark.parametrize("name", RULES)
def test_infinite_scores_rank(name):
    scores = np.array([-np.inf, 0, 1, 2, 3, 4, 5, 6, 7, np.inf])
    threshold, said = quiet(RULES[name], scores, [0] * 9 + [1])
    expected = {"conformal": 5}.get(name, 1)
    assert not said and (scores >= threshold).sum() == expected


def test_nothing_lies_above_an_infinite_normal_score():
    threshold, said = quiet(target_fpr_threshold, [0, np.inf], [0, 0], 0)
    assert threshold == np.inf and "infinite" in said[0]
    assert np.isfinite(just_above(np.float32([-np.inf, -np.inf])))
    assert np.isfinite(just_above(np.float32([-np.inf, 3])))
    assert just_above(np.float32([np.finfo(np.float32).max])) == np.inf


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "at least one"),
        ([1.0, 2.0], [0], "shape"),
        ([1.0, np.nan], [0, 1], "1 of 2 scores are NaN, in number 1"),
        ([1.0, 2.0], [-1, 1], r"\[-1\]"),
    ],
)
def test_bad_input_is_refused_with_its_reason(name, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        RULES[name](scores, labels)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TargetFPRThreshold(1.5),
        lambda: TargetRecallThreshold(-0.1),
        lambda: NormalQuantileThreshold(math.nan),
        lambda: ConformalThreshold(0),
        lambda: ConformalThreshold(1),
        lambda: CostThreshold(miss=-1),
        lambda: CostThreshold(prior=2),
        lambda: ManualThreshold(math.nan),
    ],
)
def test_a_wrong_argument_is_told_when_the_rule_is_made(make):
    with pytest.raises(ValueError, match="Expected"):
        make()


# ---- the classes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_threshold_rules())
def test_every_rule_gathers_and_says_where_its_threshold_comes_from(name):
    random = np.random.default_rng(0)
    labels = random.random(80) < 0.3
    scores = (random.normal(size=80) + 2 * labels).astype(np.float32)
    rule = get_threshold_rule(name)
    whole = rule.fit(scores, labels) if name != "manual" else rule.compute()
    for i in reversed(range(0, 80, 20)):
        part = slice(i, i + 20)
        rule.update(torch.tensor(scores[part]), torch.tensor(labels[part]))
    found = rule.compute()
    assert found == whole and isinstance(found, float)
    assert found.rule == repr(rule) and found.promise and found.fitted_on
    assert repr(get_threshold_rule(found.rule)) == found.rule
    for twin in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert twin == found and twin.rule == found.rule
    rule.reset()
    if name != "manual":
        with pytest.raises(ValueError, match="no scores were shown"):
            rule.compute()


def test_the_classes_compute_what_the_functions_do():
    random = np.random.default_rng(1)
    labels = random.random((12, 6, 6)) < 0.1
    labels[::2] = False
    maps = (random.normal(size=labels.shape) + labels).astype(np.float32)
    pairs = (
        (F1AdaptiveThreshold(), f1_adaptive_threshold(maps, labels)),
        (TargetFPRThreshold(0.2), target_fpr_threshold(maps, labels, 0.2)),
        (TargetRecallThreshold(0.8), target_recall_threshold(maps, labels, 0.8)),
        (CostThreshold(3, 1, 0.01), cost_threshold(maps, labels, 3, 1, 0.01)),
        (NormalQuantileThreshold(0.7), normal_quantile_threshold(maps, labels, 0.7)),
        (ConformalThreshold(0.4), conformal_threshold(maps, labels, 0.4)),
        (ManualThreshold(1.5), manual_threshold(maps, labels, 1.5)),
    )
    for rule, expected in pairs:
        for part in (slice(0, 5), slice(5, 12)):
            rule.update(maps[part], labels[part])
        assert rule.compute() == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f1_adaptive(",
        "target_fpr(0.1)",
        "target_fpr(fpr=x)",
        "a(b=1)(c=2)",
        "print(a=__import__)",
    ],
)
def test_text_that_is_no_rule(text):
    with pytest.raises(ValueError, match="Cannot read the threshold rule"):
        get_threshold_rule(text)


def test_rules_are_read_as_people_write_them():
    for text in (
        "target_fpr(fpr=0.05)",
        "TargetFPRThreshold( fpr = 5e-2 )",
        "target-fpr-threshold(fpr=.05)",
    ):
        assert repr(get_threshold_rule(text)) == "target_fpr(fpr=0.05)"
    assert read_rule("manual(value=inf)") == ("manual", {"value": math.inf})
    with pytest.raises(ValueError, match="Did you mean 'conformal'"):
        get_threshold_rule("conformel")
    with pytest.raises(ValueError, match="no argument .alpha.. Expected fpr"):
        get_threshold_rule("target_fpr(alpha=0.1)")


# ---- in the post-processor -----------------------------------------------------------------------


def test_levels_follow_their_own_rules():
    random = np.random.default_rng(0)
    maps = random.normal(size=(30, 5, 5)).astype(np.float32)
    validation = Batch(pred_score=maps.max((1, 2)), gt_label=np.zeros(30, bool), anomaly_map=maps)
    post = PostProcessor(
        threshold_rule="conformal(alpha=0.1)", pixel_threshold_rule="target_fpr(fpr=0.2)"
    )
    post.calibrate(validation)
    assert post.image_threshold == conformal_threshold(validation.pred_score, np.zeros(30), 0.1)
    assert post.pixel_threshold == target_fpr_threshold(maps, np.zeros(maps.shape), 0.2)
    assert post.fitted_on == (
        "conformal(alpha=0.1), pixels target_fpr(fpr=0.2) on 30 normal and 0 anomalous validation images"
    )
    assert PostProcessor().load_state_dict(post.state_dict()) == post
    same = PostProcessor(threshold_rule="conformal(alpha=0.1)").calibrate(validation)
    assert same.pixel_threshold == same.image_threshold  # of a map, its largest value


def test_a_budget_that_cannot_be_promised_reports_nothing():
    scores = np.arange(5, dtype=np.float32)
    validation = Batch(pred_score=scores, gt_label=np.zeros(5, bool))
    with pytest.warns(UserWarning, match="Add 14 more"):
        post = PostProcessor(threshold_rule="conformal(alpha=0.05)").calibrate(validation)
    assert post.image_threshold == math.inf
    assert not post(Batch(pred_score=torch.tensor([1e9]))).pred_label.any()


def test_a_misspelt_rule_is_told_at_once():
    with pytest.raises(ValueError, match="Did you mean 'conformal'"):
        PostProcessor(pixel_threshold_rule="conformel")
    with pytest.raises(ValueError, match="No threshold rule"):
        PostProcessor().load_state_dict({"threshold_rule": "f2"})
