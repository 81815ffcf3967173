"""Weights that were changed after a training, as a run of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import paddle

from callbacks.checkpoint_folder import Saved
from callbacks.paddle_model import network_of, shape_differences
from cifar_hapi.errors import RunError
from cifar_hapi.loading import Weights, checkpoint_step, read_weights
from cifar_hapi.run import Run, started_run
from cifar_hapi.run_path import is_run
from cifar_hapi.runtime import machine, versions

_OF_THE_TRAINING = ("format", "recipe", "data", "seed", "device", "engine", "engine_reason", "precision")


def save_as_run(model: Any, path: str | Path, like: Run | str | Path, weights: Weights = "latest") -> Run:
    """Write the weights of `model` as a run at `path`, with recipe and data of the run `like`, which stays as it is.

        found = recalibrate("runs/first")
        evaluate(save_as_run(found.model, "runs/mended", like="runs/first"))

    `evaluate`, `predict`, `load`, `diagnose` and their commands take it as any run; its run.json names the run and the
    step that it comes from (`derived_from`). It has no history, and training cannot go on from it.

    model: a `paddle.Model` or a `paddle.nn.Layer` with the network of that run, such as `load` and `recalibrate` give.
    path: a new directory. weights: which of the run's weights were changed, "latest" or "best".

    Raises RunError where there is a run at `path` already, or `like` is none or of another network; TypeError for what
    is no model.
    """
    like = like if isinstance(like, Run) else Run(like)
    if is_run(path):
        raise RunError(f"run {path}: exists already; name a directory that is new")
    tensors = {name: tensor.numpy() for name, tensor in network_of(model).state_dict().items()}
    step, saved = checkpoint_step(like, weights), read_weights(like, weights)
    if differences := shape_differences({name: saved[name].shape for name in sorted(saved)}, tensors):
        raise RunError(f"run {path}: not written: the model is not of the network of run {like.path}: {differences}")
    manifest = {key: value for key, value in like.manifest.items() if key in _OF_THE_TRAINING}
    manifest |= {"derived_from": {"run": str(like.path), "weights": weights, "step": step}}
    manifest |= {"versions": versions(), "machine": machine(), "command": sys.argv}
    with started_run(Path(path), manifest, model if isinstance(model, paddle.Model) else None) as run:
        run.checkpoints.point("latest", run.checkpoints.write(step, Saved(tensors)))
    return run
