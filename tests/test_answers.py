"""What a network has said of each test image: as kept, as read back, and files that hold something else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from small_training import small_fit

from cifar_hapi import RunError, evaluate
from cifar_hapi.answers import AnswerMetric, read_answers, write_answers
from cifar_hapi.data.archives import read_cifar
from cifar_hapi.metrics import softmax

RNG = np.random.default_rng(0)


def answered(logits, labels):
    metric = AnswerMetric()
    for start in range(0, len(labels), 7):
        metric.update(logits[start : start + 7], labels[start : start + 7])
    return metric.answers


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_answers_are_the_likeliest_classes_of_all_batches(classes):
    logits, labels = RNG.normal(size=(20, classes)).astype("float32"), RNG.integers(0, classes, 20)
    found = answered(logits, labels)
    probabilities = softmax(logits)
    for place in range(20):
        order = sorted(range(classes), key=lambda each: -probabilities[place, each])[:3]
        assert found.classes[place].tolist() == order
        np.testing.assert_allclose(found.probabilities[place], probabilities[place, order], rtol=1e-6)
        assert found.of_label[place] == pytest.approx(probabilities[place, labels[place]])
    assert found.labels.tolist() == labels.tolist()


def test_of_equals_the_lower_class_is_first_as_in_argmax():
    assert answered(np.zeros((1, 4), "float32"), np.array([2])).classes.tolist() == [[0, 1, 2]]


def test_a_reset_forgets():
    metric = AnswerMetric()
    metric.update(np.zeros((2, 3)), np.array([0, 1]))
    metric.reset()
    metric.update(np.zeros((1, 3)), np.array([[2]]))
    assert metric.accumulate() == len(metric.answers) == 1 and metric.answers.labels.tolist() == [2]


def test_the_surest_mistakes_come_first():
    logits = np.array([[5, 0, 0], [1, 0, 0], [0, 3, 0], [0, 0, 9]], "float32")
    found = answered(logits, np.array([0, 1, 0, 1]))
    assert found.right.tolist() == [True, False, False, False]
    assert found.surest_mistakes(2).tolist() == [3, 2] and found.surest_mistakes(9).tolist() == [3, 2, 1]


def test_each_evaluation_keeps_its_answers(small_cifar, tmp_path):
    run = small_fit(small_cifar, tmp_path / "run", epochs=1)
    _, test = read_cifar(small_cifar, "cifar10")
    for views in ("plain", "flip"):
        evaluation = evaluate(run, views=views)
        found, images = read_answers(run.answers_path, evaluation["when"], 10)
        assert images == test.sha256() and found.labels.tolist() == test.labels.tolist()
        assert found.right.mean() == pytest.approx(evaluation["top1"])
        assert np.bincount(found.classes[:, 0], minlength=10).tolist() == np.sum(evaluation["confusion"], 0).tolist()


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "answers.safetensors"
    write_answers(path, answered(RNG.normal(size=(5, 4)), np.array([0, 1, 2, 3, 0])), images="abc", evaluated="now")
    return path


def test_answers_of_another_evaluation_are_none(written):
    found, images = read_answers(written, "now", 4)
    assert len(found) == 5 and images == "abc"
    assert read_answers(written, "later", 4) is None and read_answers(written.parent / "none", "now", 4) is None


DAMAGES = {
    "a tensor is missing": lambda found: {key: found[key] for key in ("labels", "classes", "probabilities")},
    "one too many": lambda found: {**found, "more": np.zeros(5, "float32")},
    "other lengths": lambda found: {**found, "of_label": found["of_label"][:3]},
    "a class that is none": lambda found: {**found, "classes": found["classes"] + 1},
    "a negative label": lambda found: {**found, "labels": found["labels"] - 1},
    "labels that are no integers": lambda found: {**found, "labels": found["labels"].astype("float32")},
    "no number": lambda found: {**found, "of_label": np.full(5, np.nan, "float32")},
    "no probability": lambda found: {**found, "probabilities": found["probabilities"] + 1},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_tensors_that_are_no_answers_are_told(written, damage):
    about = {"images": "abc", "evaluated": "now"}
    written.write_bytes(save(DAMAGES[damage](load(written.read_bytes())), about))
    with pytest.raises(RunError, match=r"answers\.safetensors: holds no answers: .*evaluate again"):
        read_answers(written, "now", 4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_any_bytes_are_answers_or_an_error_of_one_line(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    write_answers(path, answered(np.eye(4), np.arange(4)), images="abc", evaluated="now")
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        read_answers(path, "now", 4)
    except RunError as error:
        assert "damaged.safetensors" in str(error) and "\n" not in str(error)
