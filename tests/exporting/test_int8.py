"""What int8 makes of a model, what is told of it, and when it is not kept."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from cifar_hapi import export, fit
from cifar_hapi.errors import CifarHapiError, DataError, RecipeError
from cifar_hapi.exporting import int8, run_export
from cifar_hapi.exporting.conversion import converted
from cifar_hapi.exporting.onnx_format import open_model

pytestmark = pytest.mark.usefixtures("converted_here")
needs_onnx = pytest.mark.skipif(paddle.__version__.startswith("2."), reason="paddle2onnx 2 needs Paddle 3")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A residual network that has learnt something; not to be written to."""
    return fit(
        "quick",
        data="synthetic",
        run_dir=tmp_path_factory.mktemp("runs") / "run",
        epochs=3,
        batch_size=50,
        verbose=0,
        report=False,
        precision="float32",  # that of exports
        **{"network.name": "airbench", "network.width": 8, "data.limit": 1000, "evaluation.views": "plain"},
    )


@needs_onnx
@pytest.mark.parametrize("uint8_input", [False, True], ids=["float32", "uint8"])
def test_it_is_int8_and_tells_accuracy_size_and_speed_before_and_after(run, tmp_path, uint8_input):
    import onnx

    found = export(run, format="onnx", int8=True, uint8_input=uint8_input, out=tmp_path / "out")
    told = json.loads((tmp_path / "out" / "metadata.json").read_text())
    cost = told["int8"]
    assert told == found.metadata and told["batch_norm_folded"] and told["agreement"]["same_top1"] == 64
    assert cost["top1"]["float32"] == pytest.approx(run.evaluation["top1"], abs=2 / cost["count"])
    assert cost["count"] == run.evaluation["images"] and cost["calibrated_on"] == "512 training images of synthetic"
    assert told["accuracy"]["top1"] == cost["top1"]["int8"] and told["accuracy"]["images"] == cost["count"]
    assert cost["bytes"]["int8"] == (tmp_path / "out" / "model.onnx").stat().st_size < 0.6 * cost["bytes"]["float32"]
    assert min(cost["images_per_second"].values()) > 0 and cost["same_top1"] > 0.95 * cost["count"]
    assert [file.name for file in found.files] == ["metadata.json", "model.onnx"] and "int8     top-1" in str(found)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    weights = {each.name: each for each in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    kernels = [makers[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    assert len(kernels) == 7 and {weights[each.input[0]].data_type for each in kernels} == {onnx.TensorProto.INT8}
    assert all(weights[each.input[1]].dims == weights[each.input[0]].dims[:1] for each in kernels), "by channel"
    assert {each.domain for each in model.opset_import} == {""}


@needs_onnx
def test_weights_keep_to_7_bits_which_do_not_saturate(run, tmp_path):
    import onnx

    export(run, format="onnx", int8=True, out=tmp_path / "out", calibration_images=10)
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    weights = [onnx.numpy_helper.to_array(each) for each in graph.initializer if len(each.dims) == 4]
    assert len(weights) == 7 and max(abs(each.astype(int)).max() for each in weights) <= 64


@needs_onnx
def test_it_takes_any_number_of_images_of_the_kind_the_other_takes(run, tmp_path):
    found = export(run, format="onnx", int8=True, uint8_input=True, out=tmp_path / "out")
    answer = open_model(found.path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    together = answer(images)
    assert together.shape == (5, 10) and together.dtype == np.float32
    np.testing.assert_allclose(np.concatenate([answer(image[None]) for image in images]), together, atol=1e-5)


@needs_onnx
def test_only_training_images_calibrate(run, tmp_path, monkeypatch):
    seen = []
    right = int8.quantise

    def watched(model, batches):
        seen.extend(batches)
        return right(model, seen)

    monkeypatch.setattr(int8, "quantise", watched)
    export(run, format="onnx", int8=True, uint8_input=True, out=tmp_path / "out", calibration_images=300)
    data = run_export.own_data(run)
    calibrated = {image.tobytes() for batch in seen for image in batch}
    assert len(calibrated) == 300 and calibrated <= {image.tobytes() for image in data.train.images}
    assert not calibrated & {image.tobytes() for image in data.test.images}


@needs_onnx
def test_too_large_a_fall_is_an_error_that_leaves_nothing_unless_it_is_allowed(run, tmp_path, monkeypatch):
    accuracies = iter([0.9, 0.885] * 2)
    monkeypatch.setattr(int8, "_top1", lambda logits, labels: next(accuracies))
    with pytest.raises(CifarHapiError, match=r"by 1\.50 points, from 90\.00% to 88\.50% of .* allowed are 1; --max"):
        export(run, format="onnx", int8=True, out=tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []
    assert export(run, format="onnx", int8=True, max_fall=1.6, out=tmp_path / "out").int8.fall == pytest.approx(1.5)


@needs_onnx
def test_nothing_is_printed(run, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("cifar_hapi.exporting.onnx_format.converted", converted)  # in a process of its own
    capfd.readouterr()
    export(run, format="onnx", int8=True, out=tmp_path / "out", calibration_images=10, max_fall=100)
    printed = capfd.readouterr()
    assert printed.out == "" and not [line for line in printed.err.splitlines() if "eager_utils" not in line]


@needs_onnx
def test_without_the_runs_images_there_is_no_int8(run, tmp_path, monkeypatch):
    monkeypatch.setattr("cifar_hapi.exporting.sample.is_on_disk", lambda declared: False)
    with pytest.raises(DataError, match="synthetic is not on this machine"):
        export(run, format="onnx", int8=True, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "int8 is for ONNX alone; add --format onnx"),
        pytest.param(
            {"format": "onnx", "calibration_images": 0}, "calibration_images = 0: expected 1", marks=needs_onnx
        ),
        pytest.param({"format": "onnx", "max_fall": float("nan")}, "max_fall = nan: expected", marks=needs_onnx),
    ],
)
def test_what_cannot_be_is_told_in_one_line(run, tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        export(run, int8=True, out=tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@needs_onnx
@pytest.mark.real_data
def test_on_all_of_cifar10_onnxruntime_is_right_as_often_as_evaluate_says(cifar10_folder, tmp_path):
    run = fit(
        "quick",
        data="cifar10",
        data_dir=cifar10_folder,
        run_dir=tmp_path / "run",
        epochs=1,
        batch_size=50,
        verbose=0,
        report=False,
        precision="float32",  # that of exports
        **{"network.width": 8, "data.limit": 1000, "evaluation.views": "plain"},
    )
    found = export(run, format="onnx", out=tmp_path / "out")
    test = run_export.own_data(run).test
    answer, images = open_model(found.path / "model.onnx"), run_export.taken(run, test.images, uint8_input=False)
    logits = np.concatenate([answer(images[start : start + 500]) for start in range(0, 10_000, 500)])
    right = int((logits.argmax(axis=1) == test.labels).sum())
    # Two, as images at which two classes are equal but for rounding can fall on either side.
    assert run.evaluation["images"] == 10_000 and abs(right - round(10_000 * run.evaluation["top1"])) <= 2
    assert right > 1_500, "a network that has learnt nothing would agree by saying one class"
