"""Weights that were changed become a run of their own, and the run that they come from stays as it is."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from callbacks.paddle_model import norm_layers
from cifar_hapi import Run, evaluate, fit, load, save_as_run
from cifar_hapi.errors import RunError
from cifar_hapi.loading import checkpoint_step


@pytest.fixture(scope="module")
def run(recorded_run):
    """The run on disk alone."""
    return Run(recorded_run.path)


@pytest.fixture
def changed(run):
    """The run's model with another running mean in one layer."""
    model = load(run)
    next(iter(norm_layers(model.network).values()))._mean.set_value(np.full(2, 3, "float32"))
    return model


def contents(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("wrapped", [True, False], ids=["Model", "Layer"])
def test_what_was_changed_is_evaluated_and_the_run_stays(run, changed, tmp_path, small_cifar, wrapped):
    before = contents(run.path)
    saved = save_as_run(changed if wrapped else changed.network, tmp_path / "new", like=str(run.path))
    assert contents(run.path) == before
    found, other = (evaluate(each.path, data_dir=str(small_cifar)) for each in (saved, run))
    assert found["loss"] != other["loss"] and found["step"] == other["step"] == 10
    for name, tensor in load(tmp_path / "new").network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), changed.network.state_dict()[name].numpy())
    assert saved.model is (changed if wrapped else None)


def test_it_tells_where_it_comes_from(run, changed, tmp_path):
    save_as_run(changed, tmp_path / "new", like=run, weights="best")
    told = json.loads((tmp_path / "new" / "run.json").read_text())
    assert told["derived_from"] == {"run": str(run.path), "weights": "best", "step": checkpoint_step(run, "best")}
    assert told["status"] == "finished" and told["recipe"] == run.manifest["recipe"]
    assert "result" not in told and Run(tmp_path / "new").history == []


def test_a_run_that_is_there_is_not_written_over(run, changed, tmp_path):
    before = contents(run.path)
    with pytest.raises(RunError, match="exists already; name a directory that is new"):
        save_as_run(changed, run.path, like=run)
    assert contents(run.path) == before


def test_another_network_is_refused(run, tmp_path):
    with pytest.raises(RunError, match=r"run .*new: not written: .* not of the network of run .*: head.* none, here"):
        save_as_run(paddle.nn.Sequential(paddle.nn.Linear(4, 3)), tmp_path / "new", like=run)
    assert not (tmp_path / "new").exists()
    with pytest.raises(TypeError, match="a str is neither"):
        save_as_run("model", tmp_path / "new", like=run)


@pytest.mark.parametrize("more", [{}, {"epochs": 3}], ids=["as it was", "more epochs"])
def test_training_does_not_go_on_from_it(run, changed, tmp_path, small_cifar, more):
    path = save_as_run(changed, tmp_path / "new", like=run).path
    with pytest.raises(RunError, match=r"holds weights alone: there is nothing to go on training from; .* from run"):
        fit(run.recipe, run_dir=path, resume=True, data_dir=small_cifar, verbose=0, **more)
    assert Run(path).status == "finished"
