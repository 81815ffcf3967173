"""What is measured of a classifier, against definitions written out by hand."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hapi.metrics import Calibration, ConfusionMatrix, TopK, counts, interval, label_ranks, set_counts, softmax

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("logits", "label", "rank"),
    [
        ([3.0, 2.0, 1.0], 0, 0),
        ([3.0, 2.0, 1.0], 2, 2),
        ([2.0, 2.0, 1.0], 0, 0),
        ([2.0, 2.0, 1.0], 1, 1),
        ([0.0, 0.0, 0.0], 2, 2),
        ([NAN, 0.0, 1.0], 0, 3),
        ([NAN, 0.0, 1.0], 2, 3),
        ([INF, 0.0, 1.0], 0, 0),
        ([-INF, -INF, 1.0], 1, 2),
    ],
)
def test_the_rank_of_a_label(logits, label, rank):
    assert label_ranks(np.array([logits], "float32"), np.array([label])).tolist() == [rank]


LOGITS = st.lists(st.lists(st.integers(-3, 3).map(float), min_size=4, max_size=4), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(LOGITS, st.randoms(use_true_random=False), st.integers(1, 20))
def test_counts_do_not_depend_on_batches_and_agree_with_argmax(rows, random, size):
    logits, labels = np.array(rows), np.array([random.randrange(4) for _ in rows])
    top, confusion = TopK((1, 2, 4)), ConfusionMatrix(4)
    for start in range(0, len(rows), size):
        for metric in (top, confusion):
            metric.update(logits[start : start + size], labels[start : start + size, None])
    right = logits.argmax(axis=1) == labels
    assert top.accumulate()[0] == pytest.approx(right.mean()) and top.accumulate()[2] == 1.0
    counts = confusion.accumulate()
    assert counts.sum() == len(rows) and counts.trace() == right.sum()
    assert counts.sum(axis=1).tolist() == np.bincount(labels, minlength=4).tolist()


def test_names_do_not_clash():
    assert TopK((1, 5)).name() == ["acc", "top5"]
    assert (ConfusionMatrix(2).name(), Calibration().name()) == ("confusion", "calibration")


def test_more_classes_than_there_are_is_all_of_them():
    metric = TopK((5,))
    metric.update(np.zeros((3, 2)), np.array([0, 1, 1]))
    assert metric.accumulate() == [1.0]


@pytest.mark.parametrize("metric", [TopK(), ConfusionMatrix(3), Calibration()])
def test_a_reset_forgets_everything(metric):
    before = str(metric.accumulate())
    metric.update(np.eye(3), np.array([0, 0, 1]))
    assert str(metric.accumulate()) != before
    metric.reset()
    assert str(metric.accumulate()) == before


def logits_of(confidences):
    """Two-class logits whose first class has these probabilities."""
    probabilities = np.array(confidences)
    return np.log(np.stack([probabilities, 1 - probabilities], axis=1))


@pytest.mark.parametrize(
    ("confidences", "right", "error"),
    [
        ([0.9] * 10, [1] * 9 + [0], 0.0),
        ([0.9] * 10, [1] * 10, 0.1),
        ([0.9] * 10, [0] * 10, 0.9),
        ([0.9, 0.9, 0.6, 0.6], [1, 1, 0, 0], (2 * 0.1 + 2 * 0.6) / 4),
    ],
)
def test_the_expected_calibration_error(confidences, right, error):
    metric = Calibration(bins=10)
    metric.update(logits_of(confidences), 1 - np.array(right))
    assert metric.accumulate()["ece"] == pytest.approx(error, abs=1e-9)


def test_calibration_bins_tell_count_confidence_and_accuracy():
    metric = Calibration(bins=10)
    metric.update(logits_of([0.95, 0.93, 0.55]), np.array([0, 1, 0]))
    filled = {round(each["from"], 1): each for each in metric.accumulate()["bins"] if each["count"]}
    assert list(filled) == [0.5, 0.9]
    assert filled[0.9]["confidence"] == pytest.approx(0.94) and filled[0.9]["accuracy"] == 0.5
    assert "accuracy" not in metric.accumulate()["bins"][0]


@pytest.mark.parametrize("logits", [[1000.0, 0.0], [-1000.0, -1000.0], [0.0, 1e-9]])
def test_softmax_does_not_overflow(logits):
    found = softmax(np.array([logits], "float32"))
    assert np.isfinite(found).all() and found.sum() == pytest.approx(1)


def counted(metric):
    logits, labels = np.array([[3.0, 1.0], [0.2, 0.1], [0.0, 2.0]], "float32"), np.array([[0], [1], [1]])
    if isinstance(metric, paddle.metric.Accuracy):
        metric.update(metric.compute(paddle.to_tensor(logits), paddle.to_tensor(labels)))
    elif isinstance(metric, paddle.metric.Metric) and type(metric).__module__.startswith("paddle"):
        positive = np.exp(logits[:, 1:]) / np.exp(logits).sum(1, keepdims=True)
        metric.update(
            np.hstack([1 - positive, positive]) if isinstance(metric, paddle.metric.Auc) else positive, labels
        )
    else:
        metric.update(logits, labels)
    return metric


METRICS = [
    lambda: TopK((1, 2)),
    lambda: ConfusionMatrix(2),
    lambda: Calibration(4),
    lambda: paddle.metric.Accuracy((1, 2)),
    paddle.metric.Precision,
    paddle.metric.Recall,
    paddle.metric.Auc,
]


@pytest.mark.parametrize("make", METRICS, ids=lambda make: type(make()).__name__)
def test_what_was_counted_goes_through_json_into_a_fresh_metric(make):
    metric, other = counted(make()), make()
    kept = counts(metric)
    np.testing.assert_equal(metric.accumulate(), counted(make()).accumulate())  # looking changes nothing
    set_counts(other, json.loads(json.dumps(kept)))
    np.testing.assert_equal(counted(other).accumulate(), counted(metric).accumulate())
    for wrong in ({}, None, {**kept, "k": 1}, dict.fromkeys(kept, "x"), dict.fromkeys(kept)):
        with pytest.raises(ValueError, match=f"is not a {type(metric).__name__}"):
            set_counts(other, wrong)


@pytest.mark.parametrize(
    ("share", "images", "low", "high"),
    [(55 / 64, 64, 0.754, 0.924), (0.0, 10, 0.0, 0.278), (1.0, 10, 0.722, 1.0), (0.9, 10_000, 0.894, 0.906)],
)
def test_an_interval_is_wilsons(share, images, low, high):
    """The first three as R's prop.test(..., correct = FALSE) tells."""
    assert interval(share, images) == pytest.approx((low, high), abs=6e-4)
