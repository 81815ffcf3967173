"""Batch-norm layers whose batch is that of all processes together."""

from __future__ import annotations

from typing import TypeVar

import paddle
from paddle import nn

from callbacks.paddle_model import global_statistics, network_of, norm_layers
from cifar_hapi.batch_norm.arguments import batch_norms
from cifar_hapi.errors import RecipeError

ModelOrLayer = TypeVar("ModelOrLayer")


def convert_sync_batch_norm(model: ModelOrLayer) -> ModelOrLayer:
    """Make the layers `BatchNorm1D`, `2D` and `3D` of `model` `SyncBatchNorm`s, in place, by Paddle's own conversion.

    A `SyncBatchNorm` normalises by the mean and variance over the batches of all processes, which matters where each
    has few images. Parameters and running statistics stay the same tensors under the same names, so that optimisers
    and checkpoints fit; epsilon, momentum, data format and mode stay, too. (Layers without scale or shift get one of
    ones or zeros, which does not learn.) model: a `paddle.Model` or a
    `paddle.nn.Layer`, and what is returned (a new object for a layer that is itself a batch norm). Convert before
    the network is wrapped in `paddle.DataParallel`, which a `paddle.Model` of several processes does as it is made.

    In a recipe, `network.sync_batch_norm` does the same by a layer of this project, on CPUs, too.

    This one is for GPUs: Paddle 2.6.2 and 3.3.1 have no kernel for it on a CPU, neither for training nor for evaluation
    (to evaluate there, load the weights into the network as it was). Raises RecipeError on a CPU, for a network without
    batch norm, for frozen layers (`use_global_stats`), which `SyncBatchNorm` cannot be, and for layers of the older
    `paddle.nn.BatchNorm`, which Paddle would leave as they are.
    """
    network = network_of(model)
    norms = batch_norms(network, "convert_sync_batch_norm")
    _check(norms)
    kept = {name: dict(norm.named_parameters(include_sublayers=False)) for name, norm in norms.items()}
    modes = {name: norm.training for name, norm in norms.items()}
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name, norm in norm_layers(converted).items():
        norm.training = modes[name]
        for parameter, tensor in kept[name].items():  # Paddle makes new ones where the layer had scale or shift alone
            setattr(norm, parameter, tensor)
    if not isinstance(model, paddle.Model):
        return converted  # type: ignore[no-any-return]
    model.network = converted
    return model


def _check(norms: dict[str, nn.Layer]) -> None:
    if str(paddle.get_device()).startswith("cpu"):
        raise RecipeError(
            "convert_sync_batch_norm: Paddle has no SyncBatchNorm on a CPU; "
            'it needs a GPU: paddle.set_device("gpu") comes first'
        )
    for name, norm in norms.items():
        what = f"convert_sync_batch_norm: {name or 'the network'}"
        if isinstance(norm, nn.BatchNorm):
            raise RecipeError(f"{what} is a paddle.nn.BatchNorm, which Paddle does not convert; make it a BatchNorm2D")
        if global_statistics(norm) is not None:
            raise RecipeError(
                f"{what} has use_global_stats={global_statistics(norm)}, which a SyncBatchNorm cannot have; "
                "undo its freezing first"
            )
