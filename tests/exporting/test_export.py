"""A run is exported, and what was written says elsewhere what the run's network says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import paddle
import pytest
from run_examples import written_run

from callbacks.checkpoint_folder import Saved
from cifar_hapi import export, load
from cifar_hapi.data.sources import open_data
from cifar_hapi.errors import CifarHapiError, DataError, RecipeError, RunError
from cifar_hapi.exporting import onnx_format, run_export
from cifar_hapi.exporting.conversion import OPSET, converted
from cifar_hapi.loading import build_declared_network
from cifar_hapi.networks import network_names

pytestmark = pytest.mark.usefixtures("converted_here")
PADDLE_2 = paddle.__version__.startswith("2.")
needs_onnx = pytest.mark.skipif(PADDLE_2, reason="paddle2onnx 2 needs Paddle 3")
each_format = pytest.mark.parametrize("format", ["paddle", pytest.param("onnx", marks=needs_onnx)])


def untrained_run(path, data_dir, name, width=2, **options):
    """A run of a network whose batch norms have statistics, scales and shifts as if they had been trained."""
    changes = {f"network__{key}": value for key, value in {"name": name, "width": width}.items()}
    run = written_run(path, data_dir, answered=False, **changes, **options)
    network, rng = build_declared_network(run.recipe.network, len(run.data.class_names)), np.random.default_rng(0)
    tensors = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    for key, values in tensors.items():
        if values.ndim == 1 and values.dtype == np.float32:
            tensors[key] = rng.uniform(0.5, 1.5, values.shape).astype("float32")
    run.checkpoints.point("latest", run.checkpoints.write(15, Saved(tensors)))
    return run


@pytest.fixture(scope="module")
def run(small_cifar, tmp_path_factory):
    """Not to be written to."""
    return untrained_run(tmp_path_factory.mktemp("runs") / "run", small_cifar, "speednet")


@pytest.fixture(scope="module")
def test_set(run):
    return open_data(run.recipe.data).test.images


def logits_of(run, pixels):
    """What Paddle says of uint8 [N, 32, 32, 3], by the formula that metadata.json tells."""
    images = (pixels / 255 - np.array(run.data.mean)) / np.array(run.data.std)
    return load(run, engine="native").network(paddle.to_tensor(images.transpose(0, 3, 1, 2).astype("float32"))).numpy()


def answered(found, images):
    """What the written model says, loaded without a line of this package."""
    if found.metadata["format"] == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(found.path / "model.onnx"), providers=["CPUExecutionProvider"])
        return session.run(["logits"], {"images": images})[0]
    return paddle.jit.load(str(found.path / "model"))(paddle.to_tensor(images)).numpy()


KINDS = [  # one of each kind; deeper ones have the same layers
    ("resnet20", {}),
    ("resnet20", {"network__shortcut": "B"}),
    ("plain20", {}),
    ("resnet18", {}),
    ("resnet18", {"network__stem": "imagenet"}),
    ("resnet50", {}),
    ("speednet", {}),
    ("airbench", {}),
    ("airbench11", {"network__activation": "gelu"}),
]


def test_no_kind_of_network_is_left_out():
    assert {name.rstrip("0123456789") for name in network_names()} == {name.rstrip("0123456789") for name, _ in KINDS}


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_each_kind_of_network_goes_into_paddles_format(small_cifar, tmp_path, name, options):
    run = untrained_run(tmp_path / "run", small_cifar, name, **options)
    found = export(run, fold_bn=True, uint8_input=True, out=tmp_path / "out")
    program = "model.pdmodel" if PADDLE_2 else "model.json"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"metadata.json", "model.pdiparams", program}
    assert found.agreement.images == "64 test images of cifar10" and found.agreement.same_top1 == 64
    assert b"run_export" not in (tmp_path / "out" / program).read_bytes(), "tells where it was written"


@needs_onnx
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain20", {"network__norm": "none"}),
        ("resnet20", {"network__shortcut": "B"}),
        ("resnet18", {"network__stem": "imagenet"}),
        ("airbench", {}),
        ("airbench11", {"network__activation": "gelu"}),
    ],
)
def test_networks_of_each_kind_go_into_onnx(small_cifar, tmp_path, name, options):
    run = untrained_run(tmp_path / "run", small_cifar, name, **options)
    assert export(run, format="onnx", out=tmp_path / "out").agreement.same_top1 == 64


@each_format
@pytest.mark.parametrize("uint8_input", [False, True], ids=["float32", "uint8"])
@pytest.mark.parametrize("fold_bn", [False, True], ids=["plain", "folded"])
def test_it_takes_any_number_of_images_and_says_what_the_network_says(
    run, test_set, tmp_path, format, uint8_input, fold_bn
):
    found = export(run, format=format, uint8_input=uint8_input, fold_bn=fold_bn, out=tmp_path / "out")
    for count in (1, 5):
        pixels = test_set[:count]
        images = (pixels / 255 - np.array(run.data.mean)) / np.array(run.data.std)
        images = pixels if uint8_input else images.transpose(0, 3, 1, 2).astype("float32")
        np.testing.assert_allclose(answered(found, images), logits_of(run, pixels), rtol=1e-3, atol=1e-4)


@needs_onnx
@pytest.mark.parametrize(("fold_bn", "norms"), [(False, True), (True, False)])
def test_folded_batch_norms_are_gone(run, tmp_path, fold_bn, norms):
    import onnx

    found = export(run, format="onnx", fold_bn=fold_bn, out=tmp_path / "out")
    kinds = {node.op_type for node in onnx.load(found.path / "model.onnx").graph.node}
    assert ("BatchNormalization" in kinds) == norms


@pytest.mark.parametrize(
    "options",
    [{"network__data_format": "NHWC"}, {"precision": "bfloat16"}, {"data__image_size": 40}],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_it_is_float32_and_channels_first_and_of_the_recipes_size(small_cifar, tmp_path, options):
    run = untrained_run(tmp_path / "run", small_cifar, "speednet", **options)
    side = run.recipe.data.image_size
    assert export(run, out=tmp_path / "out").metadata["input"]["shape"] == ["N", 3, side, side]


@each_format
def test_the_metadata_say_how_to_use_it_and_where_it_comes_from(run, tmp_path, format):
    found = export(run.path, format=format, uint8_input=True, out=tmp_path / "out")
    told = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert told == found.metadata == found.to_dict()["metadata"]
    assert told["input"] == {
        "name": "images",
        "dtype": "uint8",
        "shape": ["N", 32, 32, 3],
        "layout": "NHWC",
        "values": "RGB, 0 to 255",
    }
    assert told["class_names"] == list(run.data.class_names) and told["normalisation"]["std"] == list(run.data.std)
    assert (told["recipe"], told["network"], told["step"]) == ("quick", "speednet", 15)
    assert told["accuracy"] == {"top1": run.evaluation["top1"], "images": 120, "data": "cifar10", "note": ""}
    assert told["opset"] == (OPSET if format == "onnx" else None) and told["versions"]["paddle"] == paddle.__version__
    assert told["agreement"]["batch_sizes"] == [1, 64] and told["agreement"]["same_top1"] == 64
    if format == "onnx":
        import onnx

        model = onnx.load(tmp_path / "out" / "model.onnx")
        inside = {each.key: each.value for each in model.metadata_props}
        assert json.loads(inside["class_names"]) == told["class_names"] and inside["recipe"] == "quick"
        assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]


@pytest.mark.parametrize("change", [{"step": 14}, None], ids=["other weights", "never"])
def test_an_accuracy_of_other_weights_is_not_told(small_cifar, tmp_path, change):
    run = untrained_run(tmp_path / "run", small_cifar, "speednet")
    if change:
        run.save_evaluation(run.evaluation | change)
    else:
        (run.path / "evaluation.json").unlink()
    found = export(run, out=tmp_path / "out")
    assert found.metadata["accuracy"] is None and "top-1    not evaluated" in str(found)


def test_with_test_time_augmentation_the_accuracy_is_that_without(small_cifar, tmp_path):
    run = untrained_run(tmp_path / "run", small_cifar, "speednet")
    run.save_evaluation(run.evaluation | {"views": "flip", "without_views": {"top1": 0.125, "loss": 2.0}})
    assert export(run, out=tmp_path / "out").metadata["accuracy"]["top1"] == 0.125


def test_the_folder_is_in_the_run_and_named_by_the_options(small_cifar, tmp_path):
    run = untrained_run(tmp_path / "run", small_cifar, "speednet")
    run.checkpoints.point("best", run.checkpoints.names()[0])
    assert export(run).path == run.path / "export" / "paddle"
    found = export(run, fold_bn=True, uint8_input=True, weights="best")
    assert found.path == run.path / "export" / "paddle-folded-uint8-best" and found.metadata["weights"] == "best"


@each_format
def test_a_model_that_says_something_else_is_an_error_and_leaves_nothing(run, tmp_path, monkeypatch, format):
    right = run_export.network_to_export

    def wrong(*given):
        network = right(*given)
        weight = network.parameters()[0]
        weight.set_value(weight.numpy() * 1.5)
        return network

    monkeypatch.setattr(run_export, "network_to_export", wrong)
    with pytest.raises(CifarHapiError, match=r"does not say what the run's network says: largest difference of logits"):
        export(run, format=format, out=tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_export, "write_new_file", full)
    with pytest.raises(OSError, match="No space left"):
        export(run, out=tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_and_stays(run, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RecipeError, match=r"^\S+: exists already; remove it, or name another folder with --out$"):
        export(run, out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "torch"}, RecipeError, "format = 'torch': expected paddle or onnx"),
        ({"weights": "best"}, RunError, "has no best weights"),
        ({"calibration_images": 64}, RecipeError, "calibration_images is for int8 alone; add --int8"),
        ({"max_fall": 0.0}, RecipeError, "max_fall is for int8 alone; add --int8"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(run, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        export(run, out=tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def without_data(small_cifar, tmp_path, monkeypatch):
    """A run whose images are gone, on a machine where nothing may be downloaded."""
    run = untrained_run(tmp_path / "run", small_cifar, "speednet")
    gone = {"source": str(tmp_path / "gone" / "cifar-10-batches-py")}
    recipe = {**run.manifest["recipe"], "data": {**run.manifest["recipe"]["data"], "dir": None}}
    run.update(recipe=recipe, data={**run.manifest["data"], **gone})
    monkeypatch.setattr("cifar_hapi.data.sources.fetch", lambda *given, **named: pytest.fail("downloads"))
    return run


def test_without_the_runs_images_generated_ones_are_taken_and_told(without_data, tmp_path):
    found = export(without_data, out=tmp_path / "out")
    assert found.agreement.images == "64 generated images" and found.agreement.same_top1 == 64
    on, why = str(found).splitlines()[-2:]
    assert on == "on       64 generated images, in batches of 1 and 64"
    assert why.startswith(
        "         as the run's own cannot be had: cifar10 is not on this machine; cifar-hapi data fetch"
    )


def test_others_do_not_learn_where_images_are_on_this_machine(small_cifar, tmp_path):
    run = untrained_run(tmp_path / "run", small_cifar, "speednet")
    note = "2 unreadable images were left out: /home/someone/pets/cat/1.png, /home/someone/pets/dog/2.png"
    run.update(data=run.manifest["data"] | {"name": "/home/someone/pets", "note": note})
    run.save_evaluation(run.evaluation | {"data": "/home/someone/pets", "note": note})
    found = export(run, out=tmp_path / "out")
    told = {"name": "pets", "note": "2 unreadable images were left out"}
    assert found.metadata["data"] == told
    assert (found.metadata["accuracy"]["data"], found.metadata["accuracy"]["note"]) == tuple(told.values())
    places = [os.fsencode(path) for path in ("/home/someone", tmp_path, small_cifar)]
    assert not any(place in file.read_bytes() for file in found.files for place in places)


def test_images_that_are_not_where_they_were_said_to_be_are_an_error(without_data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cifar10 is not on this machine; cifar-hapi data fetch cifar10 downloads it"):
        export(without_data, out=tmp_path / "out", data_dir=tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_other_test_images_than_the_recorded_are_not_called_the_runs(small_cifar, tmp_path):
    run = untrained_run(tmp_path / "run", small_cifar, "speednet")
    test = replace(run.data.parts["test"], sha256="0" * 64)
    parts = {**run.manifest["data"]["parts"], "test": {"images": test.images, "sha256": test.sha256}}
    run.update(data={**run.manifest["data"], "parts": parts})
    found = export(run, out=tmp_path / "out")
    assert found.agreement.images == "64 generated images" and "cifar10: not the test images that run" in found.missing


FORBIDDEN = """
import os, socket, subprocess

def forbidden(*given, **named):
    os._exit(99)

def started(self, command, *given, **named):  # Paddle looks for programs as it is loaded
    if "install" in str(command):
        os._exit(99)
    return start(self, command, *given, **named)

start, subprocess.Popen.__init__ = subprocess.Popen.__init__, started
os.system = socket.socket.connect = forbidden
"""


@each_format
def test_nothing_is_installed_reached_over_the_network_or_printed(run, tmp_path, monkeypatch, capfd, format):
    started = subprocess.Popen

    def converting(command, **named):
        assert command[1:3] == ["-m", "cifar_hapi.exporting.conversion_child"] and not named.get("shell")
        return started(command, **named)

    def forbidden(*given, **named):
        raise AssertionError(f"called with {given}")

    monkeypatch.setattr(onnx_format, "converted", converted)  # in a process of its own, as users have it
    (tmp_path / "sitecustomize.py").write_text(FORBIDDEN)  # which the child imports as it starts
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", converting)
    monkeypatch.setattr("os.system", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.delenv("POLYGRAPHY_AUTOINSTALL_DEPS", raising=False)
    capfd.readouterr()
    export(run, format=format, out=tmp_path / "out")
    assert "POLYGRAPHY_AUTOINSTALL_DEPS" not in os.environ
    assert "polygraphy" not in sys.modules
    printed = capfd.readouterr()
    assert printed.out == "" and "onnxruntime" not in printed.err, "which warns of constants that nothing uses"


def test_paddle_2_cannot_write_onnx_and_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(paddle, "__version__", "2.6.2")
    with pytest.raises(RecipeError, match=r"paddle2onnx 2 needs Paddle 3, this is 2\.6\.2; take --format paddle"):
        export(run, format="onnx", out=tmp_path / "out")


@needs_onnx
@pytest.mark.parametrize("library", ["paddle2onnx", "onnx", "onnxruntime"])
def test_without_the_extra_it_says_what_to_install(run, tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"^ONNX export needs {library}: pip install 'cifar-hapi\[onnx\]'$"):
        export(run, format="onnx", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_what_cannot_be_converted_leaves_nothing(run, tmp_path, monkeypatch):
    def failing(program):
        raise CifarHapiError("not exported: paddle2onnx cannot convert the operator erfinv")

    monkeypatch.setattr("cifar_hapi.exporting.onnx_format.converted", failing)
    with pytest.raises(CifarHapiError, match="the operator erfinv"):
        export(run, format="onnx", out=tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_int8_without_what_it_needs_says_what_to_install(run, tmp_path, monkeypatch):
    for name in [each for each in sys.modules if each.startswith("onnxruntime.quantization")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"^ONNX export needs ml_dtypes: pip install 'cifar-hapi\[onnx\]'$"):
        export(run, format="onnx", int8=True, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
