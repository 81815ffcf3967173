"""fit(): from a recipe to a run directory that says what happened."""

from __future__ import annotations

import contextlib
import json
import re

import numpy as np
import paddle
import pytest
from filelock import FileLock
from paddle.callbacks import Callback
from small_training import small_fit

from callbacks import NonFiniteLoss
from cifar_hapi import DataError, Recipe, RecipeError, Run, RunError, evaluate, fit, load, predict
from cifar_hapi.building import build_training, images_to_probe
from cifar_hapi.data.device_loader import DeviceLoader
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.normalisation import normalise
from cifar_hapi.data.sources import open_data
from cifar_hapi.engine import onednn_availability
from cifar_hapi.networks.airbench import whitening_filters


@pytest.fixture(scope="module")
def run(small_cifar, tmp_path_factory):
    return small_fit(small_cifar, tmp_path_factory.mktemp("runs") / "first")


def weights_of(model):
    return {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_the_run_directory_holds_what_the_design_says(run):
    names = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    steps = {record["step"] for record in run.history}
    folders = {f"checkpoints/step-{step:08d}" for step in steps}
    each = ("weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")
    parts = {f"{folder}/{part}" for folder in folders for part in each}
    others = {"run.json", "history.jsonl", "history.csv", "evaluation.json", "checkpoints/latest", "checkpoints/best"}
    others |= {"steps.jsonl", "answers.safetensors"}
    assert names - {".lock"} == parts | others


def engine_and_precision_of_this_machine() -> tuple[str, str]:
    """What `auto` takes for a recipe that allows bfloat16."""
    found = onednn_availability()
    return "onednn" if found.usable else "native", "bfloat16" if found.native_bfloat16 else "float32"


def test_run_json_says_what_was_trained_on_what_and_where(run):
    manifest = json.loads((run.path / "run.json").read_text())
    assert manifest["status"] == "finished" and manifest["seconds"] > 0 and manifest["started"] < manifest["ended"]
    assert Recipe.from_dict(manifest["recipe"]) == run.recipe and run.recipe.network.width == 2
    assert manifest["versions"]["paddle"] == paddle.__version__
    trained = sum(each.size for each in run.model.network.parameters() if not each.stop_gradient)
    assert manifest["parameters"] == trained and manifest["peak_memory"] > 10_000_000
    assert {name: part["images"] for name, part in manifest["data"]["parts"].items()} == {
        "train": 540,
        "val": 60,
        "test": 120,
    }
    assert all(re.fullmatch("[0-9a-f]{64}", part["sha256"]) for part in manifest["data"]["parts"].values())
    assert manifest["result"]["top1"] == run.evaluation["top1"]
    assert manifest["device"] == "cpu" and manifest["seed"] == 0 and manifest["engine_reason"]
    assert (manifest["engine"], manifest["precision"]) == engine_and_precision_of_this_machine()


def test_that_bfloat16_is_not_used_is_said_before_training_and_in_run_json(small_cifar, tmp_path, capsys):
    run = small_fit(small_cifar, tmp_path / "run", epochs=1, verbose=1, engine="native", precision="bfloat16")
    reason = "as the recipe says; Paddle's own kernels compute in float32 on a CPU"
    assert f"engine   native ({reason}), float32, on cpu" in capsys.readouterr().out
    assert (run.manifest["engine_reason"], run.manifest["precision"]) == (reason, "float32")


def test_history_has_a_line_an_epoch_with_validation(run):
    assert [record["epoch"] for record in run.history] == [1, 2]
    assert all(0 <= record["eval_acc"] <= 1 and record["eval_loss"] > 0 for record in run.history)


def test_batch_norm_statistics_are_recorded_where_the_recipe_says_so(small_cifar, tmp_path, run):
    assert run.bn_stats is None
    asked = {"bn_stats.every_steps": 2, "bn_stats.probe": 7}
    other = small_fit(small_cifar, tmp_path / "run", **asked)
    records = other.bn_stats
    assert records.steps.tolist() == [0, 2, 4, 5, 6, 8, 10] and records.summarised
    network = {name: tensor.numpy() for name, tensor in other.model.network.state_dict().items()}
    for layer in records.layers:
        assert records[layer, "running_mean"][-1, -1] == pytest.approx(np.linalg.norm(network[f"{layer}._mean"]))
    assert_same(weights_of(other.model), weights_of(run.model))  # it trains as without
    other.bn_path.write_text("{}\n")
    with pytest.raises(RunError, match=r"run .*: .*stats\.jsonl, line 1: no header"):
        _ = other.bn_stats


@pytest.mark.parametrize("change", [{"network.norm": "none"}, {"network.freeze_norm": True, "network.pretrained": "x"}])
def test_muon_is_refused_where_batch_norm_does_not_make_up_for_it(small_cifar, tmp_path, change):
    with pytest.raises(RecipeError, match=r"optimizer\.name = muon: gives filters a norm of its own"):
        small_fit(small_cifar, tmp_path / "run", **{"optimizer.name": "muon", **change})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("fraction", "part"), [(0.1, "60 validation"), (0.0, "600 training")])
def test_more_images_to_probe_than_there_are_are_refused_before_training(small_cifar, tmp_path, fraction, part):
    with pytest.raises(RecipeError, match=f"bn_stats.probe = 601: there are {part} images; ask for no more"):
        small_fit(small_cifar, tmp_path / "run", **{"data.val_fraction": fraction, "bn_stats.probe": 601})
    assert not (tmp_path / "run").exists()


def test_images_to_probe_are_the_first_to_validate_as_the_network_takes_them(small_cifar):
    recipe = Recipe.load("quick", {"data.source": "cifar10", "data.dir": str(small_cifar), "bn_stats.probe": 5})
    data = open_data(recipe.data, recipe.seed)
    _, (_, validation) = build_training(recipe, data)
    np.testing.assert_array_equal(images_to_probe(recipe, data, "cpu"), next(iter(validation))[0][:5])
    plain = recipe.with_overrides({"bn_stats": None})
    assert images_to_probe(plain, data, "cpu") is None


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
def test_the_first_layer_of_airbench_whitens_training_images_as_the_network_takes_them(small_cifar, data_format):
    recipe = Recipe.load("quick", {"data.source": "cifar10", "data.dir": str(small_cifar), "network.width": 4})
    data = open_data(recipe.data, recipe.seed)
    model, _ = build_training(recipe.with_overrides({"network.data_format": data_format}), data)
    expected = whitening_filters(normalise(data.train.images, data.mean, data.std, "NHWC"))
    np.testing.assert_allclose(model.network.whitening.weight.numpy(), expected, atol=1e-5)


def test_the_first_epochs_train_on_small_images_and_validation_images_stay_whole(small_cifar):
    small = {"augment.small_size": 16, "augment.small_epochs": 2, "network.width": 4}
    recipe = Recipe.load("quick", {"data.source": "cifar10", "data.dir": str(small_cifar), **small})
    _, (training, validation) = build_training(recipe, open_data(recipe.data, recipe.seed))
    assert [training.batch(epoch, 0)[0].shape[2:] for epoch in range(4)] == [(16, 16)] * 2 + [(32, 32)] * 2
    assert validation.batch(0, 0)[0].shape[2:] == (32, 32)


def test_the_model_is_ready_to_go_on(run):
    before = weights_of(run.model)
    images = np.zeros((4, 3, 32, 32), "float32")
    run.model.train_batch([images], [np.array([0, 1, 2, 3])])
    changed = weights_of(run.model)
    assert any(not np.array_equal(before[name], changed[name]) for name in before)
    run.model.network.set_state_dict(before)


def test_saved_weights_are_those_of_the_model(run):
    assert_same(weights_of(load(run)), weights_of(run.model))
    best = max(run.history, key=lambda record: record["eval_acc"])
    assert run.checkpoints.read(run.checkpoints.labelled("best")).state["epoch"] == best["epoch"]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(small_cifar, tmp_path, run):
    again = small_fit(small_cifar, tmp_path / "again")
    assert_same(weights_of(load(again)), weights_of(load(run)))
    other = small_fit(small_cifar, tmp_path / "other", seed=1)
    name = "head.weight"
    assert not np.array_equal(weights_of(other.model)[name], weights_of(run.model)[name])


def test_channels_last_trains_as_channels_first_does(small_cifar, tmp_path, run):
    other = small_fit(small_cifar, tmp_path / "nhwc", epochs=1, **{"network.data_format": "NHWC"})
    first = small_fit(small_cifar, tmp_path / "nchw", epochs=1)
    assert other.history[0]["loss"] == pytest.approx(first.history[0]["loss"], rel=1e-2)


@pytest.mark.filterwarnings("error:To copy construct")
def test_images_that_live_on_the_device_train_as_those_of_the_host_do(small_cifar, tmp_path, run):
    there = small_fit(small_cifar, tmp_path / "there", **{"data.on_device": True})
    for found, expected in zip(there.history, run.history, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-4)


def test_what_may_compute_in_16_bits_computes_in_float32_where_the_device_cannot(small_cifar, tmp_path):
    runs = [
        small_fit(small_cifar, tmp_path / precision, precision=precision, engine="native", epochs=1)
        for precision in ("float32", "bfloat16", "float16")
    ]
    assert {run.manifest["precision"] for run in runs} == {"float32"} and runs[2].recipe.precision == "float16"
    for run in runs[1:]:
        assert_same(weights_of(run.model), weights_of(runs[0].model))


@pytest.mark.parametrize(("precision", "scaled"), [("float32", False), ("bfloat16", False), ("float16", True)])
@pytest.mark.filterwarnings("ignore:AmpScaler")
def test_only_float16_has_its_loss_scaled(small_cifar, monkeypatch, precision, scaled):
    monkeypatch.setattr("cifar_hapi.mixed_precision.gpu_precision", lambda allowed, device: allowed)
    recipe = Recipe.load("quick", {"precision": precision, "data.source": "cifar10", "data.dir": str(small_cifar)})
    model, _ = build_training(recipe, open_data(recipe.data))
    assert (model.scaler is not None) == scaled


def test_training_evaluation_and_what_is_loaded_compute_in_the_same_precision(small_cifar, tmp_path, monkeypatch):
    casts = []

    @contextlib.contextmanager
    def auto_cast(enable=True, level="O1", dtype="float16"):
        casts.append(dtype if enable else None)
        yield

    monkeypatch.setattr("cifar_hapi.mixed_precision.gpu_precision", lambda allowed, device: allowed)
    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    run = small_fit(small_cifar, tmp_path / "run", epochs=1, precision="bfloat16", engine="native")
    forwards = 5 + 1 + 1  # batches of training, validation and test images
    assert casts.count("bfloat16") == forwards
    load(run).predict_batch([np.zeros((1, 3, 32, 32), "float32")])
    assert casts.count("bfloat16") == forwards + 1


@pytest.mark.parametrize("on_device", ["auto", True, False])
def test_automatically_images_live_on_a_gpu_that_has_room(small_cifar, monkeypatch, on_device):
    monkeypatch.setattr("cifar_hapi.building.fits_on", lambda device, train, val: (len(train), len(val)) == (540, 60))
    options = {
        "data.source": "cifar10",
        "data.dir": str(small_cifar),
        "data.on_device": on_device,
        "data.val_fraction": 0.1,
    }
    recipe = Recipe.load("quick", options)
    _, loaders = build_training(recipe, open_data(recipe.data))
    assert {type(loader) for loader in loaders} == {BatchLoader if on_device is False else DeviceLoader}


def test_a_run_goes_from_one_data_format_to_the_other(small_cifar, run, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    before, probabilities = evaluate(run), predict(run, images).probabilities
    monkeypatch.setattr(Recipe, "data_format", lambda recipe, device: "NHWC")
    assert load(run).network.stem.conv._data_format == "NHWC"
    assert evaluate(run)["loss"] == pytest.approx(before["loss"], rel=1e-5)
    np.testing.assert_allclose(predict(run, images).probabilities, probabilities, rtol=1e-4, atol=1e-6)


def test_without_validation_images_nothing_is_called_best(small_cifar, tmp_path):
    run = small_fit(small_cifar, tmp_path / "all", epochs=1, **{"data.val_fraction": 0.0})
    assert "eval_acc" not in run.history[0] and run.manifest["data"]["parts"]["train"]["images"] == 600
    with pytest.raises(RunError, match="has no best weights"):
        load(run, "best")


def test_a_run_that_exists_is_not_touched(run, small_cifar):
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(RunError, match="exists already"):
        small_fit(small_cifar, run.path)
    assert (run.path / "run.json").read_bytes() == before


def test_a_run_that_another_process_holds_is_left_alone(small_cifar, tmp_path):
    (tmp_path / "held").mkdir()
    with FileLock(tmp_path / "held" / ".lock"), pytest.raises(RunError, match="another process"):
        small_fit(small_cifar, tmp_path / "held")
    assert not (tmp_path / "held" / "run.json").exists()


def test_a_run_directory_that_cannot_be_is_an_error(small_cifar, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        small_fit(small_cifar, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"network.name": "resnt20"}, RecipeError, "network.name = 'resnt20'"),
        ({"network.stem": "imagenet"}, RecipeError, "network.stem"),
        ({"network.num_classes": 5}, RecipeError, "network.num_classes = 5: cifar10 has 10 classes"),
        ({"optimizer.lrr": 1}, RecipeError, "did you mean optimizer.lr?"),
        ({"device": "gpu:77"}, RecipeError, "device 'gpu:77'"),
        ({"device": "tpu"}, RecipeError, "expected auto, cpu, gpu or gpu:N"),
        ({"data": "no/such/folder"}, DataError, "no/such/folder"),
        ({"data": "cifar100"}, DataError, "cifar100"),
    ],
)
def test_what_cannot_be_trained_leaves_no_run(small_cifar, tmp_path, monkeypatch, overrides, error, message):
    monkeypatch.setattr("cifar_hapi.data.sources.fetch", unreachable)
    with pytest.raises(error, match=re.escape(message)):
        small_fit(small_cifar, tmp_path / "run", **overrides)
    assert not (tmp_path / "run").exists()


def unreachable(archive, folder, progress):
    raise DataError(f"{archive.file_name}: no mirror answers (cifar100)")


def test_ctrl_c_leaves_a_readable_run_marked_interrupted(small_cifar, tmp_path):
    class CtrlC(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_fit(small_cifar, tmp_path / "run", epochs=3, callbacks=[CtrlC()])
    run = Run(tmp_path / "run")
    assert run.status == "interrupted" and run.evaluation is None
    assert [record["epoch"] for record in run.history] == [1]
    assert weights_of(load(run)).keys()


def test_a_loss_that_is_no_number_stops_the_run_with_step_rate_and_last_loss(small_cifar, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"at step \d+, learning rate .*, last finite loss"):
        small_fit(small_cifar, tmp_path / "run", **{"optimizer.lr": 3e38, "schedule.name": "constant"})
    run = Run(tmp_path / "run")
    assert run.status == "failed" and run.manifest["error"].startswith("NonFiniteLoss: the loss is")


def test_weights_that_give_no_number_are_no_success(small_cifar, tmp_path):
    """One step: its own loss is finite, what it leaves behind is not."""
    options = {"optimizer.lr": 1e30, "schedule.name": "constant", "data.limit": 100, "data.val_fraction": 0.0}
    with pytest.raises(NonFiniteLoss, match="the loss on the test images is nan"):
        small_fit(small_cifar, tmp_path / "run", epochs=1, **options)
    run = Run(tmp_path / "run")
    assert run.status == "failed" and run.evaluation is None


def test_a_finished_epoch_is_on_disk_whatever_comes_after(small_cifar, tmp_path):
    class Fails(Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        small_fit(small_cifar, tmp_path / "run", callbacks=[Fails()])
    run = Run(tmp_path / "run")
    assert len(run.history) == 1 and run.checkpoints.labelled("latest") and run.status == "failed"


def test_nothing_is_printed_and_no_global_state_is_left_behind(small_cifar, tmp_path, capfd):
    paddle.seed(123)
    expected = paddle.rand([3]).numpy()
    paddle.seed(123)
    device = paddle.get_device()
    small_fit(small_cifar, tmp_path / "run", epochs=1)
    assert capfd.readouterr() == ("", "")
    assert paddle.get_device() == device
    np.testing.assert_array_equal(paddle.rand([3]).numpy(), expected)


def test_verbose_tells_data_network_epochs_result_and_what_next(small_cifar, tmp_path, capsys):
    run = small_fit(small_cifar, tmp_path / "run", verbose=1)
    text = capsys.readouterr().out
    expected = [
        "540 images to train on, 60 to validate, 120 to test",
        "plain20",
        "epoch 2/2",
        f"test top-1 {run.evaluation['top1']:.2%}",
        "120 images",
        "the last weights",
        "best",
        f"cifar-hapi evaluate {run.path}",
    ]
    assert [part for part in expected if part not in " ".join(text.split("\n"))] == []


def test_a_recipe_object_and_callbacks_of_ones_own_are_taken(small_cifar, tmp_path):
    seen = []

    class Mine(Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, sorted(logs)))

    recipe = Recipe.load("quick", {"data.limit": 200, "data.val_fraction": 0.1})
    run = small_fit(small_cifar, tmp_path / "run", recipe=recipe, epochs=1, callbacks=[Mine()])
    assert seen == [(0, ["acc", "eval_acc", "eval_loss", "loss"])]
    assert run.manifest["data"]["parts"]["train"]["images"] == 180


def test_runs_without_a_name_get_one_each(small_cifar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [small_fit(small_cifar, None, epochs=1, **{"data.limit": 120}) for _ in range(2)]
    assert all(re.fullmatch(r"runs/quick-\d{8}-\d{6}(-\d+)?", str(run.path)) for run in runs)
    assert Run.newest().path == runs[1].path != runs[0].path


def test_fewer_images_than_a_batch_are_a_batch_of_their_own(small_cifar, tmp_path):
    run = small_fit(small_cifar, tmp_path / "run", epochs=1, batch_size=1000)
    assert run.history[0]["step"] == 1


def test_an_image_folder_is_trained_on(tmp_path, monkeypatch):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.png")
    (tmp_path / "pets" / "dog" / "broken.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    run = small_fit(None, tmp_path / "run", data="pets", epochs=1, batch_size=8)
    monkeypatch.chdir(tmp_path / "pets")
    assert evaluate(run)["top1"] == run.evaluation["top1"], "from another folder, too"
    assert run.manifest["data"]["class_names"] == ["cat", "dog"]
    assert "1 unreadable" in run.manifest["data"]["note"] and "broken.png" in run.evaluation["note"]
    assert run.model.network(paddle.zeros([1, 3, 32, 32])).shape == [1, 2]


@pytest.mark.real_data
def test_real_cifar10_is_trained_on_and_evaluated_whole(cifar10_folder, tmp_path):
    run = fit(
        "quick",
        data="cifar10",
        data_dir=cifar10_folder,
        run_dir=tmp_path / "run",
        epochs=1,
        verbose=0,
        batch_size=32,
        **{"network.width": 4, "data.limit": 2560},
    )
    assert run.evaluation["images"] == 10_000 and run.evaluation["note"] == ""
    assert 0.15 < run.evaluation["top1"] < 0.6
