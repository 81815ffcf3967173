"""Pictures of runs: what they show of which numbers, and that plotly knows all that they are made of."""

from __future__ import annotations

import json

import numpy as np
import pytest
import run_examples as examples
from pydantic import TypeAdapter

from cifar_hapi.metrics import interval
from cifar_hapi.recorded_evaluation import RecordedEvaluation
from cifar_hapi.report import course_figures, evaluation_figures
from cifar_hapi.report.course_figures import AGAINST, MEASURES, RunCourse
from cifar_hapi.report.encoding import Arrays
from cifar_hapi.report.evaluation_figures import MOST_CLASSES, NamedEvaluation
from cifar_hapi.report.figure import legend_height

EPOCH, STEP, SECONDS = AGAINST
LOSS, ACCURACY, RATE, SPEED = MEASURES


def evaluated(classes=10, images=120, seed=0):
    labels = np.arange(images) % classes
    names = [f"class {number}" for number in range(classes)]
    found = examples.evaluation(labels, examples.logits_of(labels, classes, seed), names)
    return TypeAdapter(RecordedEvaluation).validate_python(found)


def course(name="run", epochs=3, drop=()):
    records = [{key: value for key, value in record.items() if key not in drop} for record in examples.history(epochs)]
    return RunCourse(name, records)


ODD = [
    {"epoch": 1, "step": 1, "loss": float("nan"), "acc": "high", "lr": True, "seconds": None},
    {"epoch": 2, "step": 2, "loss": float("inf")},
    {},
]
COURSES = {
    "one run": [course()],
    "two runs": [course("a"), course("b", 5)],
    "no validation": [course(drop=("eval_loss", "eval_acc"))],
    "some without validation": [course("a"), course("b", drop=("eval_loss", "eval_acc"))],
    "odd numbers": [RunCourse("odd", ODD, ODD)],
    "within epochs": [RunCourse("run", examples.history(), examples.steps())],
    "nothing": [RunCourse("empty", [])],
    "long": [course("long", 3000)],
    "many runs": [course(f"run {number}") for number in range(14)],
}
EVALUATIONS = {
    "ten classes": [evaluated()],
    "two classes": [evaluated(2)],
    "a hundred classes": [evaluated(100, 500)],
    "more": [evaluated(130, 260)],
    "one image": [evaluated(10, 1)],
    "two runs": [evaluated(), evaluated(seed=1)],
}


def course_pictures(courses):
    return [course_figures.course_figure(courses, measure, against) for measure in MEASURES for against in AGAINST]


def evaluation_pictures(evaluations):
    named = [NamedEvaluation(f"run {number}", each) for number, each in enumerate(evaluations)]
    yield evaluation_figures.class_dots(named)
    yield evaluation_figures.reliability(named)
    for each in evaluations:
        yield evaluation_figures.class_bars(each)
        yield evaluation_figures.confusion_map(each)


@pytest.mark.parametrize("case", [*COURSES, *EVALUATIONS])
def test_plotly_knows_all_that_pictures_are_made_of(case):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    pictures = course_pictures(COURSES[case]) if case in COURSES else evaluation_pictures(EVALUATIONS[case])
    for each in pictures:
        graph_objects.Figure(each)
        json.dumps(Arrays().encoded(each), allow_nan=False)


@pytest.mark.parametrize(("against", "expected"), [(EPOCH, [1, 2, 3]), (STEP, [5, 10, 15]), (SECONDS, [2.0, 5.0, 9.0])])
def test_a_course_shows_the_numbers_of_the_history(against, expected):
    training, validation = course_figures.course_figure([course()], LOSS, against)["data"]
    assert (training["name"], validation["name"]) == ("training", "validation")
    np.testing.assert_allclose(training["x"], expected)
    np.testing.assert_allclose(training["y"], [record["loss"] for record in examples.history()])
    np.testing.assert_allclose(validation["y"], [record["eval_loss"] for record in examples.history()])


STEPS = [
    {"step": 4, "epoch": 0.8, "loss": 2.0, "lr": 0.2, "seconds": 1.5},
    {"step": 5, "epoch": 1.0, "loss": 1.5, "lr": 0.1, "seconds": 0.5},
]


@pytest.mark.parametrize(("against", "expected"), [(EPOCH, [0.8, 1.0]), (STEP, [4, 5]), (SECONDS, [1.5, 2.0])])
def test_loss_and_rate_are_drawn_within_epochs_where_they_were_recorded(against, expected):
    recorded = RunCourse("run", examples.history(), STEPS)
    training, validation = course_figures.course_figure([recorded], LOSS, against)["data"]
    (rate,) = course_figures.course_figure([recorded], RATE, against)["data"]
    assert training["x"].tolist() == rate["x"].tolist() == expected
    assert (training["y"].tolist(), rate["y"].tolist()) == ([2.0, 1.5], [0.2, 0.1])
    assert len(validation["x"]) == 3
    assert len(course_figures.course_figure([recorded], ACCURACY, against)["data"][0]["x"]) == 3


@pytest.mark.parametrize(
    ("against", "expected"), [(EPOCH, [1, 1.4, 2]), (STEP, [5, 7, 10]), (SECONDS, [2.0, 3.2, 5.0])]
)
def test_a_run_that_recorded_its_steps_later_is_drawn_from_its_begin(against, expected):
    """As one that an earlier version began: history.jsonl has its first epochs alone."""
    later = [record for record in examples.steps() if record["step"] in (7, 9, 10)]
    where, values = RunCourse("run", examples.history(2), later).line("loss", against.key)
    assert (where[0], where[1], where[-1]) == pytest.approx(tuple(expected))
    assert values[0] == examples.history(2)[0]["loss"] and len(values) == 4


def test_a_run_in_its_first_epoch_has_a_picture():
    assert course_figures.measures_of([RunCourse("run", [], examples.steps())]) == [LOSS, RATE]


def test_epochs_without_an_evaluation_are_no_points():
    records = examples.history(4)
    for record in records[::2]:
        del record["eval_acc"]
    _, validation = course_figures.course_figure([RunCourse("run", records)], ACCURACY, EPOCH)["data"]
    assert validation["x"].tolist() == [2, 4]


def test_each_run_has_one_name_on_the_legend_that_hides_all_its_lines():
    courses = COURSES["some without validation"]
    data = course_figures.course_figure(courses, LOSS, EPOCH)["data"]
    assert [(each["name"], each["legendgroup"], each["showlegend"]) for each in data] == [
        ("a", "0", False),
        ("a", "0", True),
        ("b", "1", True),
    ]


def test_runs_differ_in_colour_dash_and_marker():
    data = course_figures.course_figure(COURSES["many runs"][:6], RATE, EPOCH)["data"]
    assert len({each["line"]["color"] for each in data}) == len({each["marker"]["symbol"] for each in data}) == 6
    assert len({each["line"]["dash"] for each in data}) == 5


def test_only_what_was_recorded_has_a_picture():
    assert course_figures.measures_of([course(drop=("lr", "images_per_second"))]) == [LOSS, ACCURACY]
    assert course_figures.measures_of(COURSES["nothing"]) == []


def test_names_have_no_tags_and_long_ones_their_end():
    assert course_figures.on_legend("<b>&") == "&lt;b&gt;&amp;"
    assert course_figures.on_legend("x" * 50 + "end") == "…" + "x" * 28 + "end"


@pytest.mark.parametrize(
    ("names", "rows"), [(["training", "validation"], 1), (["a", "b", "c"], 2), (["a", "resnet20-20260101-120000"], 2)]
)
def test_a_legend_has_room_on_a_phone(names, rows):
    """Two short names stand beside each other there; buttons take what is above."""
    assert legend_height(names) == 34 + 20 * rows


def test_bars_are_accuracies_with_their_intervals_the_worst_on_top():
    evaluation = evaluated()
    figure = evaluation_figures.class_bars(evaluation)
    (bars,) = figure["data"]
    shares = [evaluation.per_class[name] for name in figure["layout"]["yaxis"]["ticktext"]]
    assert bars["x"].tolist() == shares == sorted(shares, reverse=True)
    for place, share in enumerate(shares):
        ends = share - bars["error_x"]["arrayminus"][place], share + bars["error_x"]["array"][place]
        assert ends == pytest.approx(interval(share, 12))


def test_a_confusion_matrix_has_a_row_for_each_class_and_numbers_where_there_is_room():
    evaluation = evaluated()
    cells, numbers = evaluation_figures.confusion_map(evaluation)["data"]
    confusion = np.array(evaluation.confusion)
    np.testing.assert_allclose(cells["z"] ** 2, confusion / confusion.sum(axis=1, keepdims=True))
    drawn = np.zeros_like(confusion)
    drawn[numbers["y"], numbers["x"]] = [int(text) for text in numbers["text"]]
    np.testing.assert_array_equal(drawn, confusion)
    assert len(evaluation_figures.confusion_map(evaluated(100, 500))["data"]) == 1


def test_of_many_classes_those_with_the_most_mistakes_are_drawn():
    evaluation = EVALUATIONS["more"][0]
    drawn = evaluation_figures.drawn_classes(evaluation)
    mistakes = np.array([sum(row) - row[place] for place, row in enumerate(evaluation.confusion)])
    left_out = np.setdiff1d(np.arange(130), drawn)
    assert len(drawn) == MOST_CLASSES and mistakes[drawn].min() >= mistakes[left_out].max()
    assert evaluation_figures.confusion_map(evaluation)["data"][0]["z"].shape == (MOST_CLASSES, MOST_CLASSES)


def test_reliability_is_that_of_the_bins_that_have_images():
    evaluation = evaluated()
    diagonal, curve, shares = evaluation_figures.reliability([NamedEvaluation("run", evaluation)])["data"]
    bins = [each for each in evaluation.calibration.bins if each.count]
    assert 1 < len(bins) < 15 and diagonal["x"] == diagonal["y"]
    assert curve["x"].tolist() == [each.confidence for each in bins]
    assert curve["y"].tolist() == [each.accuracy for each in bins]
    assert shares["y"].sum() == pytest.approx(1) and len(shares["y"]) == 15
