"""The parts of a training, as a recipe declares them."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import paddle
from paddle.callbacks import Callback

from callbacks import (
    BatchNormStats,
    Checkpoint,
    EarlyStopping,
    ExponentialMovingAverage,
    History,
    StepHistory,
    TerminateOnNaN,
)
from cifar_hapi.data.device_loader import DeviceLoader, fits_on
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.normalisation import normalise
from cifar_hapi.data.resize import resize
from cifar_hapi.data.sources import Data
from cifar_hapi.data.training_loader import training_loader
from cifar_hapi.distributed import ranks
from cifar_hapi.distributed.sync_batch_norm import synchronise
from cifar_hapi.errors import RecipeError
from cifar_hapi.loading import build_declared_network
from cifar_hapi.loss import build_loss
from cifar_hapi.metrics import TopK
from cifar_hapi.mixed_precision import use_mixed_precision
from cifar_hapi.model import Model
from cifar_hapi.networks.airbench import Airbench
from cifar_hapi.optimizer import build_optimizer
from cifar_hapi.recipe import Recipe
from cifar_hapi.run import Run
from cifar_hapi.run_clock import RunClock

Loaders = tuple[BatchLoader, BatchLoader | None]

_IMAGES_TO_WHITEN = 2000  # of 961 patches each


def build_training(recipe: Recipe, data: Data) -> tuple[Model, Loaders]:
    """The prepared model, and the loaders of the training and the validation images (None if none are held out).

    On Paddle's current device, as `recipe` wants it there: data format, mixed precision, images on the device. Weights
    are fresh, also where the recipe names some to begin with.
    """
    device = str(paddle.get_device())
    data_format = recipe.data_format(device)
    kind, size = DeviceLoader if _on_device(recipe, data, device) else BatchLoader, recipe.data.image_size
    loader = partial(kind, image_size=size, data_format=data_format)
    training = training_loader(partial(loader, rank=ranks.rank(), ranks=ranks.count()), recipe, data)
    classes, asked = len(data.train.class_names), recipe.network.num_classes
    if asked not in (None, classes):
        raise RecipeError(f"network.num_classes = {asked}: {data.name} has {classes} classes; leave the key out")
    network = build_declared_network(recipe.network, classes, data_format)
    if isinstance(network, Airbench):
        first = resize(data.train.images[:_IMAGES_TO_WHITEN], size)
        network.whiten(normalise(first, data.mean, data.std, data_format))
    if recipe.network.sync_batch_norm:
        synchronise(network)
    precision = use_mixed_precision(network, recipe.precision, device)
    model = Model(network)
    optimizer = build_optimizer(recipe.optimizer, recipe.schedule, network, len(training), recipe.epochs)
    scaling = "O1" if precision == "float16" else None
    model.prepare(optimizer, build_loss(recipe.loss), [TopK()], amp_configs=scaling)
    if data.val is None:
        return model, (training, None)
    return model, (training, loader(data.val, recipe.eval_batch_size, mean=data.mean, std=data.std))


def _on_device(recipe: Recipe, data: Data, device: str) -> bool:
    asked = recipe.data.on_device
    return fits_on(device, data.train, data.val) if asked == "auto" else asked


def declared_checkpoint(recipe: Recipe, path: Path) -> Checkpoint:
    saving = recipe.checkpoint
    return Checkpoint(
        path / "checkpoints",
        every_epochs=saving.every_epochs,
        every_steps=saving.every_steps,
        every_seconds=saving.every_seconds,
        keep=saving.keep,
        keep_best=saving.keep_best,
        monitor=saving.monitor,
        mode=saving.mode,
    )


def declared_callbacks(recipe: Recipe, run: Run, probe: np.ndarray | None) -> list[Callback]:
    callbacks = [TerminateOnNaN(), History(run.path / "history.jsonl"), StepHistory(run.steps_path), RunClock(run)]
    if recipe.averaging:
        callbacks.insert(0, ExponentialMovingAverage(recipe.averaging.decay, recipe.averaging.warm_up))
    if recipe.early_stopping:
        callbacks.append(EarlyStopping(**dataclasses.asdict(recipe.early_stopping)))
    if recipe.bn_stats:
        callbacks.append(BatchNormStats(run.bn_path, **{**dataclasses.asdict(recipe.bn_stats), "probe": probe}))
    return callbacks


def images_to_probe(recipe: Recipe, data: Data, device: str) -> np.ndarray | None:
    """What batch-norm statistics look at: the first validation images, without such the first training images.

    As the network takes them. Raises RecipeError where there are not as many as `bn_stats.probe`.
    """
    count = recipe.bn_stats.probe if recipe.bn_stats else 0
    part, name = (data.train, "training") if data.val is None else (data.val, "validation")
    if count > len(part):
        raise RecipeError(f"bn_stats.probe = {count}: there are {len(part)} {name} images; ask for no more")
    first = resize(part.images[:count], recipe.data.image_size)
    return normalise(first, data.mean, data.std, recipe.data_format(device)) if count else None
