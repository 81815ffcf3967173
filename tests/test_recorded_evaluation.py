"""evaluation.json as others read it: whole, or an error that says where it is damaged."""

from __future__ import annotations

import copy
import json

import pytest
import run_examples as examples

from cifar_hapi import RunError
from cifar_hapi.recorded_evaluation import recorded_evaluation


@pytest.fixture
def run(small_cifar, tmp_path):
    return examples.written_run(tmp_path / "run", small_cifar)


def test_an_evaluation_is_read_as_it_was_written(run):
    found, written = recorded_evaluation(run), run.evaluation
    assert (found.top1, found.images, found.per_class) == tuple(written[key] for key in ("top1", "images", "per_class"))
    assert found.right == round(written["top1"] * 120)
    bins = written["calibration"]["bins"]
    assert [each.count for each in found.calibration.bins] == [each["count"] for each in bins]
    assert [each.low for each in found.calibration.bins] == [each["from"] for each in bins]


def test_before_the_first_evaluation_there_is_none(small_cifar, tmp_path):
    assert recorded_evaluation(examples.written_run(tmp_path / "run", small_cifar, evaluated=False)) is None


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("top1", 1.5, "top1: input should be less than or equal to 1"),
        ("top1", None, "top1: "),
        ("loss", float("nan"), "loss: "),
        ("images", 0, "images: "),
        ("per_class", {"cat": 0.5}, "the confusion matrix is not one of the classes"),
        ("per_class", {}, "the confusion matrix is not one of the classes"),
        ("confusion", [[1, 2], [3]], "the confusion matrix is not one of the classes"),
        ("confusion", [[-1]], "confusion.0.0: "),
        ("calibration", {"ece": 0.1, "bins": []}, "calibration.bins: "),
        ("calibration", {"ece": 0.1, "bins": [{"from": 0}]}, "calibration.bins.0.to: "),
        ("data", 3, "data: "),
        ("when", None, "when: "),
    ],
)
def test_what_is_wrong_is_told_with_its_key(run, key, value, told):
    damaged = copy.deepcopy(run.evaluation) | {key: value}
    (run.path / "evaluation.json").write_text(json.dumps(damaged))
    with pytest.raises(RunError) as error:
        recorded_evaluation(run)
    assert "evaluation.json: " in str(error.value) and told in str(error.value) and "\n" not in str(error.value)
