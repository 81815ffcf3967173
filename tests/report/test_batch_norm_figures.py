"""Pictures of batch norm: what they show of which numbers, and that plotly knows all that they are made of."""

from __future__ import annotations

import base64
import json

import bn_examples as examples
import numpy as np
import pytest

from callbacks.bn_layout import SUMMARY
from cifar_hapi.report import batch_norm_figures as figures
from cifar_hapi.report.batch_norm_course import MOST_CHANNELS, MOST_LAYERS, MOST_MOMENTS, course_of
from cifar_hapi.report.encoding import Arrays

MEAN, VARIANCE, SCALE, SHIFT = figures.QUANTITIES


def all_pictures(inspection):
    course = course_of(inspection)
    for quantity in figures.QUANTITIES:
        yield figures.heat_map(course, quantity)
        for layer in course.layers:
            yield figures.layer_course(course, layer, quantity)
            yield figures.distributions(course, layer, quantity)
    yield figures.depth_profile(course, inspection.layers)
    for layer in inspection.layers:
        if course.has("batch_mean"):
            yield figures.running_and_batch(course, layer.name)
        if layer.true is not None:
            yield figures.running_and_true(layer, MOST_CHANNELS)


def nothing_finite(layout, rows):
    rows[:] = np.nan


def some_not_finite(layout, rows):
    rows[1, ::3], rows[2, ::2], rows[3] = np.nan, np.inf, -1


CASES = {
    "every channel": examples.example(),
    "summaries": examples.example(summarised=True),
    "a probe": examples.example(probed=True),
    "summaries of a probe": examples.example(summarised=True, probed=True),
    "one record": examples.example(moments=1, probed=True),
    "one layer of one channel": examples.example(count=1, channels=1),
    "no records": examples.inspection([examples.layer("a")]),
    "nothing finite": examples.inspection(
        [examples.layer("a", 2)], examples.records({"a": 2}, probed=True, spoil=nothing_finite)
    ),
    "some not finite": examples.inspection(
        [examples.layer("a", 6)], examples.records({"a": 6}, probed=True, spoil=some_not_finite)
    ),
    "summaries not finite": examples.inspection(
        [examples.layer("a", 6)], examples.records({"a": 6}, summarised=True, spoil=some_not_finite)
    ),
    "no name": examples.inspection([examples.layer("", away=(0, 1))], examples.records({"": 8}), []),
}


@pytest.mark.parametrize("case", CASES)
def test_plotly_knows_all_keys_and_values(case):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    pictures = list(all_pictures(CASES[case]))
    assert len(pictures) >= 10
    for picture in pictures:
        graph_objects.Figure(picture)  # raises ValueError for a key or a value that it doesn't know
        json.dumps(Arrays().encoded(picture), allow_nan=False)


def test_a_map_has_a_row_for_each_layer_and_a_column_for_each_record():
    recorded = CASES["every channel"].records
    cells, *crosses = figures.heat_map(course_of(CASES["every channel"]), MEAN)["data"]
    rms = [np.sqrt(np.square(recorded[name, "running_mean"]).mean(axis=1)) for name in recorded.layers]
    np.testing.assert_allclose(cells["z"], rms, rtol=1e-6)
    assert cells["x"].tolist() == recorded.steps.tolist() and crosses == []


def test_a_map_begins_with_the_first_step():
    assert figures.heat_map(course_of(CASES["every channel"]), MEAN)["layout"]["xaxis"]["range"] == [0, 45]
    assert "range" not in figures.heat_map(course_of(CASES["one record"]), MEAN)["layout"]["xaxis"]


def test_a_map_of_variances_is_logarithmic_and_crosses_what_has_no_logarithm():
    course = course_of(CASES["some not finite"])
    cells, crosses = figures.heat_map(course, VARIANCE)["data"]
    medians = course.records.over_layers("running_variance")
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(10 ** cells["z"], np.where(medians > 0, medians, np.nan), rtol=1e-5)
    assert set(crosses["x"].tolist()) == {10, 20, 30} and set(crosses["y"].tolist()) == {0}
    ticks = [float(text) for text in cells["colorbar"]["ticktext"]]
    assert ticks[0] == pytest.approx(medians[medians > 0].min(), rel=0.06)
    assert cells["text"][0][0] == f"{medians[0, 0]:.3g}"


def test_one_layer_in_time_has_bands_of_all_channels_and_a_line_for_each():
    course = course_of(CASES["every channel"])
    name = course.layers[1]
    values = course.records[name, "scale"]
    everything, half, median, *lines = figures.layer_course(course, name, SCALE)["data"]
    np.testing.assert_array_equal(everything["y"][:5], values.min(axis=1))
    np.testing.assert_array_equal(everything["y"][:4:-1], values.max(axis=1))
    np.testing.assert_allclose(half["y"][:5], np.quantile(values, 0.25, axis=1), rtol=1e-6)
    np.testing.assert_allclose(median["y"], np.median(values, axis=1), rtol=1e-6)
    np.testing.assert_array_equal([line["y"] for line in lines], values.T)


def test_summaries_have_bands_and_boxes_but_no_lines():
    course = course_of(CASES["summaries"])
    name = course.layers[0]
    assert len(figures.layer_course(course, name, SHIFT)["data"]) == 3
    (boxes,) = figures.distributions(course, name, SHIFT)["data"]
    expected = course.records[name, "shift"][:, SUMMARY.index("q3")]
    np.testing.assert_array_equal(boxes["q3"], expected)
    assert boxes["x"][2] == "epoch 2, step 20"


def test_moments_that_are_not_finite_are_marked_and_left_out_of_the_bands():
    course = course_of(CASES["some not finite"])
    picture = figures.layer_course(course, "a", MEAN)
    assert [shape["x0"] for shape in picture["layout"]["shapes"]] == [10, 20]
    assert picture["data"][2]["x"].tolist() == [0, 30, 40]
    assert picture["layout"]["annotations"][0]["text"] == "not finite"
    whole = figures.layer_course(course_of(CASES["every channel"]), "stage0.0.norm", MEAN)
    assert whole["layout"]["shapes"] == [] and whole["layout"]["annotations"] == []


def test_histograms_count_every_channel_and_begin_with_the_first_and_the_last_moment():
    course = course_of(CASES["every channel"])
    data = figures.distributions(course, course.layers[0], MEAN)["data"]
    assert [sum(trace["y"][::2]) for trace in data] == [8] * 5
    assert [trace["visible"] for trace in data] == [True, "legendonly", "legendonly", "legendonly", True]
    assert [trace["name"] for trace in data][-1] == "epoch 4, step 40"


def test_running_and_true_statistics_meet_on_the_diagonal():
    layer = examples.layer("a", away=(0, 1))
    diagonal, dots, *_ = figures.running_and_true(layer, 4)["data"]
    np.testing.assert_allclose(dots["x"], dots["y"], rtol=1e-6)
    assert dots["customdata"].tolist() == [0, 2, 5, 7] and diagonal["x"] == diagonal["y"]
    with pytest.raises(ValueError, match="a was not looked at"):
        figures.running_and_true(examples.layer("a"), 4)


def test_running_and_batch_statistics_share_a_picture():
    course = course_of(CASES["a probe"])
    layer = course.layers[0]
    medians = {
        (trace["name"], trace["yaxis"]): trace["y"]
        for trace in figures.running_and_batch(course, layer)["data"]
        if trace["name"].endswith("median")
    }
    for row, what in (("y1", "mean"), ("y2", "variance")):
        for kind in ("running", "batch"):
            expected = course.records.summary(layer, f"{kind}_{what}")[:, SUMMARY.index("median")]
            np.testing.assert_array_equal(medians[f"{kind} median", row], expected)


def test_variance_through_the_depth_tells_begin_end_and_truth():
    inspection = CASES["a probe"]
    data = figures.depth_profile(course_of(inspection), inspection.layers)["data"]
    assert [trace["name"] for trace in data] == [
        "running, epoch 0, step 0",
        "running, epoch 4, step 40",
        "batch (probe), epoch 0, step 0",
        "batch (probe), epoch 4, step 40",
        "of batches (diagnosis)",
    ]
    np.testing.assert_allclose(data[1]["y"], inspection.records.over_layers("running_variance")[:, -1], rtol=1e-6)
    np.testing.assert_allclose(data[-1]["y"], [np.median(layer.true.variance) for layer in inspection.layers])
    assert len(figures.depth_profile(course_of(CASES["no records"]), [])["data"]) == 1


def test_without_records_the_present_is_drawn():
    course = course_of(CASES["no records"])
    assert not course.recorded and course.steps.tolist() == [40]
    held = CASES["no records"].layers[0].tensors
    for name, values in held.items():
        np.testing.assert_array_equal(course.every_channel("a", name), values[None])


def test_names_have_no_tags_and_long_ones_their_end():
    recorded = examples.records({"<b>bold</b> & co": 2, "x" * 50 + "end": 2})
    course = course_of(examples.inspection([examples.layer("a")], recorded))
    ticks = figures.heat_map(course, MEAN)["layout"]["yaxis"]["ticktext"]
    assert ticks[0] == "&lt;b&gt;bold&lt;/b&gt; &amp; co" and ticks[1].endswith("xend") and len(ticks[1]) == 24


@pytest.mark.parametrize(
    ("layers", "channels", "moments", "lines"),
    [(3, 2000, 5, MOST_CHANNELS), (20, 64, 6, 64), (20, 64, 182, 10), (110, 64, 182, 1), (400, 8, 1000, 0)],
)
def test_what_is_drawn_has_bounds(layers, channels, moments, lines):
    named = f"stage{(layers - 1) // 6}.{(layers - 1) % 6}.norm"
    recorded = examples.records(dict.fromkeys(examples.names(layers), channels), moments, summarised=False)
    course = course_of(examples.inspection([examples.layer(named)], recorded, [examples.finding(layer_name=named)]))
    assert 1 <= len(course.moments) <= min(moments, MOST_MOMENTS) and course.steps[-1] == recorded.steps[-1]
    assert len(course.layers) == min(layers, MOST_LAYERS) and named in course.layers
    assert lines <= course.channels <= MOST_CHANNELS
    drawn = course.drawn_channels(named)
    assert len(drawn) == min(channels, course.channels) and len(set(drawn)) == len(drawn)


def test_an_array_is_stored_once_however_many_traces_have_it():
    arrays = Arrays()
    shared = np.arange(3)
    encoded = arrays.encoded({"data": [{"x": shared, "y": np.array([[1, np.inf]])}, {"x": shared.copy()}]})
    assert encoded == {"data": [{"x": {"array": 0}, "y": {"array": 1}}, {"x": {"array": 0}}]}
    numbers = [np.frombuffer(base64.b64decode(each["bdata"]), "<f4").tolist() for each in arrays.stored]
    assert numbers[0] == [0, 1, 2] and numbers[1][0] == 1 and np.isnan(numbers[1][1])
    assert arrays.stored[1]["shape"] == "1, 2"
