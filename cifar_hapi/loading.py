"""From a run on disk back to a model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle

from callbacks import CheckpointError
from callbacks.checkpoint_folder import step_of
from callbacks.paddle_model import shape_differences
from cifar_hapi.batch_norm.freezing import freeze_batch_norm
from cifar_hapi.engine import EngineChoice, use_engine
from cifar_hapi.errors import RecipeError, RunError
from cifar_hapi.loss import CrossEntropy
from cifar_hapi.metrics import TopK
from cifar_hapi.mixed_precision import gpu_precision, use_mixed_precision
from cifar_hapi.model import Model
from cifar_hapi.networks import build_network, check_network
from cifar_hapi.recipe import DataFormat, NetworkRecipe, Recipe
from cifar_hapi.run import Run
from cifar_hapi.runtime import apply_settings

Weights = Literal["latest", "best"]
_NOT_BUILT = ("pretrained", "freeze_norm", "sync_batch_norm")  # what is done to a network when it has been built


def load(run: Run | str | Path, weights: Weights = "latest", engine: str | None = None) -> Model:
    """The model of a run with its `latest` or `best` weights, prepared for `evaluate` and `predict`.

    engine: "auto", "native" or "onednn"; the recipe's if absent. Raises RunError when the run has no such weights, or
    they are damaged or of another network, and RecipeError for an engine that cannot be had.
    """
    return load_with_engine(run, weights, engine)[0]


def load_with_engine(run: Run | str | Path, weights: Weights, engine: str | None) -> tuple[Model, EngineChoice]:
    """As `load`, and which engine it became."""
    run = run if isinstance(run, Run) else Run(run)
    recipe = run.recipe.with_overrides({} if engine is None else {"engine": engine})
    apply_settings()
    tensors, device = read_weights(run, weights), str(paddle.get_device())
    try:
        network = build_declared_network(recipe.network, len(run.data.class_names), recipe.data_format(device))
    except RecipeError as error:
        raise RunError(f"run {run.path}: {error}") from None
    _set_weights(network, tensors, str(run.path))
    choice = use_declared_engine(network, recipe, device)
    use_mixed_precision(network, recipe.precision, device)
    network.eval()
    model = Model(network)
    model.prepare(loss=CrossEntropy(), metrics=[TopK()])
    return model, choice


def build_declared_network(
    recipe: NetworkRecipe, num_classes: int, data_format: DataFormat = "NCHW"
) -> paddle.nn.Layer:
    """The network that a recipe declares; `num_classes` is the data's, used where the recipe names none.

    data_format: what `auto` is here, as `Recipe.data_format` tells. Weights are fresh, whatever it begins with; its
    batch norm is frozen if the recipe says so.
    """
    network = build_network(**{"data_format": data_format, **_declared(recipe, num_classes)})
    if recipe.freeze_norm:
        freeze_batch_norm(network, scale_and_shift=True)
    return network


def check_declared_network(recipe: NetworkRecipe) -> None:
    """Raise RecipeError if no such network can be built, before time is spent on data."""
    check_network(**_declared(recipe, 10))


def use_declared_engine(network: paddle.nn.Layer, recipe: Recipe, device: str) -> EngineChoice:
    """Make `network` run on the engine that `recipe` names; on a GPU its precision is that of `use_mixed_precision`."""
    choice = use_engine(network, recipe.engine, recipe.precision, device)
    if not device.startswith("gpu"):
        return choice
    precision = gpu_precision(recipe.precision, device)
    unused = "" if precision == recipe.precision else f"; this GPU does not compute in {recipe.precision}"
    return EngineChoice(choice.engine, precision, choice.why + unused)


def checkpoint_step(run: Run, weights: Weights) -> int:
    """After how many updates the run's `latest` or `best` weights were saved. Raises RunError where there are none."""
    return step_of(_checkpoint_name(run, weights))


def read_weights(run: Run, weights: Weights) -> dict[str, np.ndarray]:
    """The run's `latest` or `best` weights by name. Raises RunError where there are none, or they are damaged."""
    name = _checkpoint_name(run, weights)
    try:
        return run.checkpoints.read_weights(name)
    except CheckpointError as error:
        raise RunError(f"run {run.path}: {error}") from None


def weights_file(run: Run, weights: Weights = "latest") -> Path:
    """The file of the run's `latest` or `best` weights, unread. Raises RunError where there are none."""
    return run.checkpoints.weights_file(_checkpoint_name(run, weights))


def _checkpoint_name(run: Run, weights: Weights) -> str:
    if weights not in ("latest", "best"):
        raise RecipeError(f"weights = {weights!r}: expected latest or best")
    try:
        name = run.checkpoints.labelled(weights)
    except CheckpointError as error:
        raise RunError(f"run {run.path}: {error}") from None
    if name is None:
        raise RunError(f"run {run.path}: has no {weights} weights: {_why_none(run, weights)}; name another run")
    return name


def _why_none(run: Run, weights: Weights) -> str:
    """How a run came to have no such weights."""
    if weights == "best" and run.checkpoints.names():
        return "without validation images there is no best"
    error = run.manifest.get("error")
    how = {"failed": f"it failed before any were saved ({error})", "running": "none have been saved yet"}
    return how.get(run.status, f"none were saved before it was {run.status}")


def _declared(recipe: NetworkRecipe, num_classes: int) -> dict[str, Any]:
    """The arguments of `build_network`; what is absent from the recipe, or "auto", is left to the network."""
    asked = {key: value for key, value in dataclasses.asdict(recipe).items() if key not in _NOT_BUILT}
    given = {key: value for key, value in asked.items() if value not in (None, "auto")}
    return {"num_classes": num_classes, **given}


def _set_weights(network: paddle.nn.Layer, tensors: dict[str, np.ndarray], where: str) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if differences := shape_differences(expected, tensors):
        raise RunError(f"run {where}: its weights are of another network: {differences}")
    network.set_state_dict(tensors)
