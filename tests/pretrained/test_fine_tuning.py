"""Trainings that begin with weights: what they start from, what they leave alone, and what a resume does not need."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from made_weights import MAKES, arrays, save_own, save_vision, tiny_network
from paddle.callbacks import Callback
from PIL import Image
from small_training import small_fit
from toy import Stop

from cifar_hapi import DataError, RecipeError, Run, RunError, evaluate, inspect_batch_norm, load, predict
from cifar_hapi.batch_norm.freezing import freeze_batch_norm
from cifar_hapi.cli import run_command
from cifar_hapi.data.archives import read_cifar
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.normalisation import IMAGENET
from cifar_hapi.optimizer import build_optimizer
from cifar_hapi.recipe import OptimizerRecipe, ParameterGroup, Recipe, ScheduleRecipe, tomllib
from cifar_hapi.recorded_evaluation import recorded_evaluation
from cifar_hapi.report.answered_images import answered_images

ROOT = Path(__file__).parents[2]
ENGINES = [
    "native",
    pytest.param("onednn", marks=pytest.mark.skipif(sys.platform != "linux", reason="Paddle's wheel has it on Linux")),
]
TINY = {
    "network.name": "resnet18",
    "network.width": 4,
    "optimizer.name": "adam",
    "optimizer.lr": 0.001,
    "augment.crop_padding": 0,
    "data.limit": 200,
    "data.image_size": 32,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The file of a tiny network of seven classes, and its arrays."""
    network = tiny_network()
    file = tmp_path_factory.mktemp("weights") / "resnet18.pdparams"
    save_vision(network, file)
    return file, arrays(network)


def tune(small_cifar, run_dir, recipe="article", **options):
    return small_fit(small_cifar, run_dir, recipe, **{"epochs": 1, "batch_size": 50, **TINY, **options})


def state(run):
    return arrays(run.model.network)


def changed(run, before):
    return {name for name, array in state(run).items() if not np.array_equal(array, before[name])}


def test_article_is_the_training_of_the_article():
    recipe = Recipe.load("article")
    assert (recipe.batch_size, recipe.epochs, recipe.precision, recipe.data.val_fraction) == (64, 10, "float32", 0)
    assert (recipe.data.image_size, recipe.data.normalisation) == (224, "imagenet")
    assert (recipe.network.name, recipe.network.stem, recipe.network.pretrained) == ("resnet18", "imagenet", "imagenet")
    assert (recipe.network.width, recipe.network.freeze_norm, recipe.network.num_classes) == (None, False, None)
    assert recipe.optimizer == OptimizerRecipe(name="adam", lr=0.001)
    assert recipe.schedule == ScheduleRecipe() and recipe.augment == Recipe().augment
    paddles = paddle.optimizer.Adam(parameters=paddle.nn.Linear(1, 1).parameters())  # the article names the rate alone
    ours = recipe.optimizer
    assert (ours.beta1, ours.beta2, ours.epsilon) == (paddles._beta1, paddles._beta2, paddles._epsilon)


def test_article_32_is_at_32_and_takes_the_official_weights():
    recipe = Recipe.load("article-32")
    assert (recipe.data.image_size, recipe.data.normalisation) == (32, "imagenet")
    assert recipe.network == Recipe.load("article").network


@pytest.mark.parametrize("make", MAKES)
def test_a_training_begins_with_the_weights_and_records_them(small_cifar, tmp_path, make):
    save, name, names = MAKES[make]
    network = tiny_network()
    save(network, tmp_path / name)
    still = {"optimizer.lr": 1e-12, "data.limit": 50, "network.freeze_norm": True}
    run = tune(small_cifar, tmp_path / "run", weights=tmp_path / name, **still)
    for key, array in arrays(network).items():
        if not key.startswith("head."):
            np.testing.assert_allclose(state(run)[key], array, rtol=0, atol=1e-9)
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    assert recorded["recipe"]["network"]["pretrained"] == str(tmp_path / name)
    about = recorded["pretrained"]
    assert (about["file"], about["names"], about["head"], about["classes"]) == (name, names, "replaced", 7)
    assert len(about["sha256"]) == 64


@pytest.fixture(scope="module")
def larger(small_cifar, tmp_path_factory, weights):
    """A run on images brought from 32x32 to 40x40, and the sizes that its network has seen in training."""
    seen = set()

    class Look(Callback):
        def on_train_begin(self, logs=None):
            self.model.network.register_forward_pre_hook(lambda layer, inputs: seen.add(tuple(inputs[0].shape[1:])))

    folder = tmp_path_factory.mktemp("larger") / "run"
    sizes = {"data.image_size": 40, "data.val_fraction": 0.2, "bn_stats.probe": 10, "augment.crop_padding": 35}
    return tune(small_cifar, folder, weights=weights[0], callbacks=[Look()], **sizes), seen


def test_images_are_seen_in_the_size_and_the_colours_of_the_recipe(larger):
    run, seen = larger
    assert seen == {(3, 40, 40)}
    assert (run.data.mean, run.data.std) == IMAGENET
    assert (run.recipe.data.image_size, run.recipe.data.normalisation) == (40, "imagenet")


def test_evaluate_predict_and_bn_prepare_images_as_the_training_did(larger, small_cifar, monkeypatch):
    run = Run(larger[0].path)
    figures = ("loss", "top1", "top5", "confusion")
    assert {key: evaluate(run)[key] for key in figures} == {key: run.evaluation[key] for key in figures}
    test = read_cifar(small_cifar, "cifar10")[1]
    assert (predict(run, test.images).labels == test.labels).sum() == round(run.evaluation["top1"] * len(test))
    sizes = []
    record = "cifar_hapi.batch_norm.run_images.BatchLoader"
    monkeypatch.setattr(record, lambda *args, **named: sizes.append(named["image_size"]) or BatchLoader(*args, **named))
    assert inspect_batch_norm(run, images=20).images == 20 and sizes == [40]
    with pytest.raises(DataError, match=r"expected uint8 \[N, 32, 32, 3\]"):
        predict(run, np.zeros((1, 40, 40, 3), np.uint8))


def test_image_files_go_the_way_of_the_runs_own_images(larger, small_cifar, tmp_path):
    run, test = Run(larger[0].path), read_cifar(small_cifar, "cifar10")[1]
    for label, name in enumerate(test.class_names):
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            for number, image in enumerate(test.images[test.labels == label][:2]):
                Image.fromarray(image).save(tmp_path / part / name / f"{number}.png")
    found = evaluate(run, data=str(tmp_path))
    predicted = predict(run, [tmp_path / "test" / name for name in test.class_names])
    labels = [test.class_names.index(Path(source).parent.name) for source in predicted.sources]
    loss = -np.log(predicted.probabilities[np.arange(20), labels]).mean()
    assert found["images"] == 20 and found["loss"] == pytest.approx(loss, rel=1e-6)
    seen = answered_images(run, recorded_evaluation(run))  # as a page finds them again
    assert seen.images.images.shape == (20, 32, 32, 3) and seen.answers.right.mean() == found["top1"]


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_norm_keeps_what_it_was_given_and_all_else_learns(small_cifar, tmp_path, weights, engine):
    frozen = {"network.freeze_norm": True, "engine": engine}
    run = tune(small_cifar, tmp_path / "run", weights=weights[0], **frozen)
    before = {**state(run), **{name: array for name, array in weights[1].items() if not name.startswith("head.")}}
    norms = {name for name in before if ".norm." in name}
    learnt = {name for name in before if name not in norms and not name.startswith("head.")}
    assert changed(run, before) == learnt
    kept = {name: array for name, array in arrays(load(run).network).items() if name in norms}
    assert all(np.array_equal(array, weights[1][name]) for name, array in kept.items())


def test_without_it_batch_norm_follows_the_new_images(small_cifar, tmp_path, weights):
    run = tune(small_cifar, tmp_path / "run", weights=weights[0])
    before = {**state(run), **{name: array for name, array in weights[1].items() if not name.startswith("head.")}}
    assert {name for name in before if ".norm." in name} <= changed(run, before)


@pytest.mark.skipif(sys.platform != "linux", reason="Paddle's wheel has oneDNN on Linux")
def test_frozen_norm_gives_the_same_training_natively_and_on_the_engine(small_cifar, tmp_path, weights):
    frozen = {"network.freeze_norm": True, "optimizer.name": "momentum", "optimizer.lr": 0.01, "data.limit": 100}
    native, engine = (
        tune(small_cifar, tmp_path / each, weights=weights[0], engine=each, **frozen) for each in ("native", "onednn")
    )
    for name, array in state(native).items():
        np.testing.assert_allclose(state(engine)[name], array, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamw", "momentum"])
def test_groups_give_the_trained_layers_a_lower_rate(name):
    """Two steps by one gradient: the first of Adam is the rate itself, whatever the gradient."""
    network = tiny_network()
    before = arrays(network)
    groups = (ParameterGroup(parameters="stem*", lr=1e-5), ParameterGroup(parameters="stage*", lr=1e-4))
    optimizer = build_optimizer(OptimizerRecipe(name=name, lr=0.01, groups=groups), ScheduleRecipe(), network, 1, 1)
    for parameter in network.parameters():
        parameter.grad = paddle.ones_like(parameter)
    optimizer.step()
    steps = {key: np.abs(array - before[key]) for key, array in arrays(network).items() if "._" not in key}
    for key, step in steps.items():
        rate = {"stem": 1e-5, "stage": 1e-4}.get(key.split(".")[0].rstrip("1234"), 0.01)
        np.testing.assert_allclose(step, rate, rtol=2e-2)


def test_the_groups_in_the_documents_are_those_of_the_network():
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    recipe = Recipe.from_dict(tomllib.loads(block))
    network = tiny_network()
    build_optimizer(recipe.optimizer, recipe.schedule, network, 1, 1)
    for name, parameter in network.named_parameters():
        if not parameter.stop_gradient:  # Paddle counts running statistics among them
            expected = {"stem": 1e-5, "head": 1e-3}.get(name.split(".")[0], 1e-4)
            assert 0.001 * parameter.optimize_attr["learning_rate"] == pytest.approx(expected)


def interrupted(small_cifar, folder, file, steps, **options):
    with pytest.raises(ConnectionError):
        tune(small_cifar, folder, weights=file, callbacks=[Stop(steps)], **{"epochs": 2, **options})


@pytest.mark.parametrize("frozen", [False, True])
def test_a_resumed_training_needs_the_file_no_more_and_ends_in_the_same_bits(small_cifar, tmp_path, frozen):
    file = tmp_path / "w.safetensors"
    save_own(tiny_network(), file)
    options = {"network.freeze_norm": frozen, "checkpoint.every_steps": 1, "data.limit": 120}
    whole = tune(small_cifar, tmp_path / "whole", weights=file, **{"epochs": 2, **options})
    interrupted(small_cifar, tmp_path / "cut", file, 4, **options)
    began_with = Run(tmp_path / "cut").manifest["pretrained"]
    file.unlink()
    cut = tune(small_cifar, tmp_path / "cut", weights=file, resume=True, **{"epochs": 2, **options})
    assert all(np.array_equal(array, state(whole)[name]) for name, array in state(cut).items())
    assert cut.manifest["pretrained"] == began_with == whole.manifest["pretrained"]


def test_a_run_without_a_checkpoint_begins_with_the_same_weights_again(small_cifar, tmp_path):
    file, other = tmp_path / "w.safetensors", tmp_path / "kept"
    save_own(tiny_network(), file)
    whole = tune(small_cifar, tmp_path / "whole", weights=file, **{"epochs": 2})
    interrupted(small_cifar, tmp_path / "cut", file, 2)
    file.rename(other)
    save_own(tiny_network(seed=5), file)
    with pytest.raises(RunError, match=r"began with other weights than those in .*; --allow-changes"):
        tune(small_cifar, tmp_path / "cut", weights=file, resume=True, **{"epochs": 2})
    other.replace(file)
    cut = tune(small_cifar, tmp_path / "cut", weights=file, resume=True, **{"epochs": 2})
    assert all(np.array_equal(array, state(whole)[name]) for name, array in state(cut).items())


def test_a_run_given_as_weights_means_its_last_ones(small_cifar, tmp_path, larger):
    first, _ = larger
    run = tune(small_cifar, tmp_path / "run", weights=first.path, **{"data.image_size": 40})
    last = first.checkpoints.weights_file(first.checkpoints.labelled("latest"))
    assert run.manifest["pretrained"]["sha256"] == hashlib.sha256(last.read_bytes()).hexdigest()
    (first.path / "checkpoints" / "latest").rename(tmp_path / "latest")
    try:
        with pytest.raises(RunError, match=r"larger\S*run: has no latest weights"):
            tune(small_cifar, tmp_path / "other", weights=first.path)
    finally:
        (tmp_path / "latest").rename(first.path / "checkpoints" / "latest")
    assert not (tmp_path / "other").exists()


def test_other_weights_are_another_recipe(small_cifar, tmp_path, weights):
    tune(small_cifar, tmp_path / "run", weights=weights[0])
    with pytest.raises(RunError, match=r"its recipe was another: network\.pretrained \("):
        tune(small_cifar, tmp_path / "run", weights="other.pdparams", resume=True, **{"epochs": 2})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"network.pretrained": None, "network.freeze_norm": True}, "a fresh network has no statistics to keep"),
        (
            {"network.name": "plain20", "network.norm": "none", "network.freeze_norm": True},
            "network.norm = none leaves nothing to freeze",
        ),
        ({"data.normalisation": "image-net"}, "'own' or 'imagenet'; did you mean imagenet"),
        ({"network.pretrained": ""}, "network.pretrained = ''"),
    ],
)
def test_what_cannot_be_is_refused_as_the_recipe_is_read(change, problem):
    with pytest.raises(RecipeError, match=problem):
        Recipe.load("article", change)


def test_nothing_is_left_behind_where_the_weights_cannot_be_read(small_cifar, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.pdparams: cannot be read: No such file or directory"):
        tune(small_cifar, tmp_path / "run", weights=tmp_path / "nowhere.pdparams")
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"w\.safetensors: is empty"):
        tune(small_cifar, tmp_path / "run", weights=tmp_path / "w.safetensors")
    assert not (tmp_path / "run").exists()


def test_a_frozen_network_is_frozen_when_it_is_loaded(small_cifar, tmp_path, weights):
    run = tune(small_cifar, tmp_path / "run", weights=weights[0], **{"network.freeze_norm": True})
    network = load(run).network
    before = arrays(network)
    network.train()
    network(paddle.ones([4, 3, 32, 32]))
    assert all(np.array_equal(array, before[name]) for name, array in arrays(network).items())
    assert freeze_batch_norm(network).layers  # and thawing is another matter


def command(tmp_path, *arguments):
    """The command in a process of its own, without a network behind its proxy: exit code, output, errors."""
    nowhere = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9")
    places = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "cifar_hapi", *map(str, arguments)],
        env={**os.environ, **nowhere, **places},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def last_line(errors):
    return [line for line in errors.splitlines() if line.startswith(("error", "Error", "Traceback"))]


def test_the_command_without_network_says_what_to_fetch_and_where_to_put_it(tmp_path, small_cifar):
    code, out, err = command(tmp_path, "train", "article", "--data", "cifar10", "--data-dir", small_cifar)
    (line,) = last_line(err)
    assert (code, out) == (3, "")
    assert line.startswith("error: cannot download resnet18.pdparams: https://paddle-hapi.bj.bcebos.com/models/")
    assert (
        f"put the file (MD5 cf548f46534aa3560945be4b95cd11c4) into {tmp_path / 'cache' / 'cifar-hapi'} by hand" in line
    )
    assert "--weights" in line and not (tmp_path / "runs").exists()


def test_the_command_takes_a_file_and_says_once_that_the_last_layer_is_new(
    tmp_path, small_cifar, weights, monkeypatch, capsys
):
    monkeypatch.setattr("cifar_hapi.cli.prepare_process", lambda: None)  # Paddle is loaded already
    options = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    sizes = ("--epochs", 1, "--batch-size", 50, "--run-dir", tmp_path / "run")
    data = ("--data", "cifar10", "--data-dir", small_cifar, "--weights", weights[0])
    code = run_command([*map(str, ("train", "article", *data, *sizes)), *options])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    said = "weights  resnet18.pdparams, by paddle.vision's names; its last layer tells 7 classes apart"
    assert out.count(said) == 1 and out.count("replaced by a fresh one of 10") == 1


def test_the_command_refuses_a_hostile_file_in_one_line_and_runs_nothing(tmp_path, small_cifar):
    (tmp_path / "w.pdparams").write_bytes(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\ntouch here\x85R.")
    data = ("--data", "cifar10", "--data-dir", small_cifar, "--weights", "w.pdparams")
    code, out, err = command(tmp_path, "train", "article", *data)
    (line,) = last_line(err)
    assert (code, out) == (3, "")
    assert line.startswith("error: w.pdparams: asks for the global 'os.system', which no state dict of Paddle needs")
    assert not (tmp_path / "here").exists() and not (tmp_path / "runs").exists()
