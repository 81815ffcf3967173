"""evaluate(): every test image once, and the same numbers from wherever they are asked."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from small_training import small_fit, write_small_cifar

from cifar_hapi import DataError, RecipeError, Run, RunError, evaluate, load, predict
from cifar_hapi.data.archives import read_cifar
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.engine.execution import accelerated
from cifar_hapi.loss import CrossEntropy
from cifar_hapi.metrics import TopK
from cifar_hapi.model import Model

FIGURES = ("images", "loss", "top1", "top5", "per_class", "confusion", "calibration")


@pytest.fixture(scope="module")
def run(small_cifar, tmp_path_factory):
    return small_fit(small_cifar, tmp_path_factory.mktemp("runs") / "run", epochs=3)


@pytest.fixture(scope="module")
def recorded(run):
    return run.evaluation


def figures(evaluation):
    return {key: evaluation[key] for key in FIGURES}


def test_an_evaluation_repeats_the_numbers_that_fit_recorded_to_the_last_digit(run, recorded):
    assert figures(evaluate(run)) == figures(recorded)
    assert figures(evaluate(str(run.path))) == figures(recorded)
    assert figures(json.loads((run.path / "evaluation.json").read_text())) == figures(recorded)


@pytest.mark.parametrize("batch_size", [1, 7, 120, 1000])
def test_the_batch_size_does_not_matter(run, recorded, batch_size):
    found = evaluate(run, batch_size=batch_size)
    assert found["confusion"] == recorded["confusion"] and found["images"] == 120
    assert found["loss"] == pytest.approx(recorded["loss"], rel=1e-5)


def test_paddles_own_methods_give_the_same_numbers(run, recorded, small_cifar):
    _, test = read_cifar(small_cifar, "cifar10")
    model = Model(run.model.network)
    model.prepare(loss=CrossEntropy(), metrics=[TopK((1, 5))])
    found = model.evaluate(BatchLoader(test, 250, mean=run.data.mean, std=run.data.std), verbose=0)
    assert (found["loss"], found["acc"], found["top5"]) == tuple(recorded[key] for key in ("loss", "top1", "top5"))


def test_the_figures_agree_with_each_other_and_with_predict(run, recorded, small_cifar):
    _, test = read_cifar(small_cifar, "cifar10")
    predictions = predict(run, test.images)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (test.labels, predictions.labels), 1)
    assert recorded["confusion"] == confusion.tolist()
    assert recorded["top1"] == pytest.approx(confusion.trace() / 120)
    top5 = predictions.probabilities.argsort(axis=1)[:, -5:]
    assert recorded["top5"] == pytest.approx((top5 == test.labels[:, None]).any(axis=1).mean())
    assert recorded["loss"] == pytest.approx(
        -np.log(predictions.probabilities[range(120), test.labels]).mean(), rel=1e-4
    )
    shares = [confusion[label, label] / confusion[label].sum() for label in range(10)]
    assert list(recorded["per_class"].values()) == pytest.approx(shares)
    assert list(recorded["per_class"]) == list(test.class_names)


def test_views_change_the_number_and_the_number_without_them_stays_beside_it(run, recorded):
    assert recorded["views"] == "plain" and "without_views" not in recorded
    found = evaluate(run, views="flip")
    assert found["views"] == "flip" and found["loss"] != recorded["loss"]
    assert found["without_views"] == {key: recorded[key] for key in ("top1", "loss")}
    with pytest.raises(RecipeError, match="views = 'mirror': expected plain, flip, flip_shift"):
        evaluate(run, views="mirror")


def test_an_evaluation_tells_its_engine_and_precision_and_may_have_another(run, recorded):
    told = {key: run.manifest[key] for key in ("engine", "precision")}
    assert told == {key: recorded[key] for key in told} == {key: evaluate(run)[key] for key in told}
    native = evaluate(run, engine="native")
    assert (native["engine"], native["precision"]) == ("native", "float32") and run.recipe.engine == "auto"
    assert native["loss"] == pytest.approx(recorded["loss"], rel=0.01)
    assert not accelerated(load(run, engine="native").network)


def test_the_best_weights_are_asked_for_by_name(run, recorded):
    found = evaluate(run, weights="best")
    assert (found["weights"], recorded["weights"]) == ("best", "latest")
    assert found["step"] == run.checkpoints.read(run.checkpoints.labelled("best")).state["step"]


def test_another_test_set_is_refused_unless_asked_for(run, tmp_path):
    write_small_cifar(tmp_path, train=50, test=60, seed=5)
    with pytest.raises(DataError, match="not the test set that run"):
        evaluate(run, data_dir=tmp_path)
    assert evaluate(run, data="cifar10", data_dir=tmp_path)["images"] == 60


def test_data_that_is_gone_is_an_error(run, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    manifest = json.loads((copy / "run.json").read_text())
    manifest["recipe"]["data"]["dir"] = None
    manifest["data"]["source"] = str(tmp_path / "gone" / "cifar-10-batches-py")
    (copy / "run.json").write_text(json.dumps(manifest))

    def fetch(archive, folder, progress):
        raise DataError("no mirror answers")

    monkeypatch.setattr("cifar_hapi.data.sources.fetch", fetch)
    with pytest.raises(DataError, match="no mirror answers"):
        evaluate(copy)


def broken(run, tmp_path, change):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    change(copy)
    return copy


def edit_manifest(**changes):
    def change(copy):
        manifest = json.loads((copy / "run.json").read_text())
        for key, value in changes.items():
            place = manifest
            *path, last = key.split("__")
            for part in path:
                place = place[part]
            place[last] = value
        (copy / "run.json").write_text(json.dumps(manifest))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda copy: (copy / "run.json").unlink(), "is no run: it has no run.json"),
        (lambda copy: (copy / "run.json").write_text("{"), "run.json: cannot be read"),
        (lambda copy: (copy / "run.json").write_text("[]"), "run.json: not a JSON object"),
        (lambda copy: (copy / "run.json").write_text("{}"), "has no recipe"),
        (lambda copy: (copy / "checkpoints" / "latest").unlink(), "has no latest weights"),
        (lambda copy: (copy / "checkpoints" / "latest").write_text("../.."), "names no checkpoint"),
        (lambda copy: shutil.rmtree(copy / "checkpoints" / "step-00000015"), "step-00000015"),
        (
            lambda copy: (copy / "checkpoints" / "step-00000015" / "weights.safetensors").write_bytes(b"\xff" * 99),
            "damaged",
        ),
        (edit_manifest(recipe__network__width=3), "weights are of another network"),
        (edit_manifest(recipe__network__name="resnet18"), "weights are of another network"),
        (edit_manifest(recipe__network__name="gone"), "network.name = 'gone'"),
        (edit_manifest(recipe__epochs="many"), "epochs = 'many'"),
        (edit_manifest(data={}), "run.json: data"),
        (edit_manifest(data=None), "run.json: data"),
        (edit_manifest(data__class_names=["one"]), "weights are of another network"),
        (edit_manifest(data__mean="x"), "run.json: data.mean"),
        (edit_manifest(data__parts=None), "run.json: data.parts"),
        (edit_manifest(data__parts={}), "run.json: data.parts"),
    ],
)
def test_a_run_of_no_use_is_told_in_one_line(run, tmp_path, change, message):
    copy = broken(run, tmp_path, change)
    with pytest.raises(RunError) as caught:
        evaluate(copy)
    assert message in str(caught.value) and str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["optimizer.safetensors", "state.json"])
def test_what_only_training_needs_may_be_damaged(run, recorded, tmp_path, part):
    copy = broken(run, tmp_path, lambda copy: (copy / "checkpoints" / "step-00000015" / part).write_bytes(b"\xff"))
    assert figures(evaluate(copy)) == figures(recorded)


def test_a_damaged_run_does_not_hide_the_others(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "whole")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    assert Run.newest(tmp_path).path == tmp_path / "whole"


def test_a_loaded_model_is_in_evaluation_mode(run):
    assert not any(layer.training for layer in load(run).network.sublayers(include_self=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "bset"}, "expected latest or best"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"engine": "warp"}, "engine = 'warp'"),
    ],
)
def test_arguments_that_cannot_be_are_named(run, options, message):
    with pytest.raises(RecipeError, match=message):
        evaluate(run, **options)


def test_where_there_is_no_run_the_error_says_how_to_make_one(tmp_path):
    with pytest.raises(RunError, match="train one first"):
        Run.newest(tmp_path)


def test_generated_images_are_never_called_cifar(tmp_path):
    run = small_fit(None, tmp_path / "run", data="synthetic", epochs=1, **{"data.limit": 200})
    for said in (run.evaluation, evaluate(run), run.manifest["data"]):
        assert "no result here is a CIFAR result" in said["note"]
    assert run.evaluation["data"] == run.manifest["data"]["name"] == "synthetic"
