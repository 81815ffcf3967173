"""Batch norm folded into the weights beside it, for a network that is only used any more."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn

from callbacks.network_input import UnfitInput
from callbacks.paddle_model import global_statistics, model_like, network_of, norm_layers, set_global_statistics
from cifar_hapi.batch_norm.arguments import batch_norms
from cifar_hapi.batch_norm.calls import Calls, difference, record
from cifar_hapi.batch_norm.fold_plan import CONVOLUTIONS, NORMS, Fold, factor_and_offset, parts, plan, watched
from cifar_hapi.batch_norm.words import counted
from cifar_hapi.engine import layers, restore
from cifar_hapi.errors import CifarHapiError, DataError, RecipeError


@dataclass(frozen=True, eq=False)
class Folding:
    """What `fold_batch_norm` made; as text, a few lines.

    model: the new network, or the new model. folded: the name of each batch norm that is gone, and of the layer that it
    is a part of now. kept: the names of the others, and why. parameters: how many numbers the state dict holds, running
    statistics included, before and after. multiply_adds: of convolutions, linear layers and batch norms (one a value)
    for one image, before and after. difference: the largest between the outputs, relative to the largest output.
    """

    model: Any
    folded: dict[str, str]
    kept: dict[str, str]
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    difference: float

    def __str__(self) -> str:
        lines = [
            f"{len(self.folded)} of {counted(len(self.folded) + len(self.kept), 'batch norm')} folded",
            "parameters and statistics: {:,} before, {:,} after".format(*self.parameters),
            "multiply-adds an image: {:,} before, {:,} after".format(*self.multiply_adds),
            f"outputs differ by {self.difference:.1e}",
        ]
        return "\n".join([*lines, *(f"kept: {name or 'the network'}: {why}" for name, why in self.kept.items())])


def fold_batch_norm(model: Any, images: Any = None, *, tolerance: float = 1e-4) -> Folding:
    """A copy of `model` for evaluation, whose batch norms have become a part of the layers beside them.

    In evaluation mode batch norm is factor * x + offset with constants (`formulas.affine`). After a convolution or a
    linear layer that is the same layer with other weights and a bias: weights * factor, bias * factor + offset. So it
    is across an average pool, and across a max pool where no factor is negative; and before a linear layer, or a
    convolution that does not pad with zeros. Wherever this is not exact, such as between an addition and a ReLU
    (pre-activation order), the batch norm stays, as the affine function that it is, in either mode.

    What follows what is not guessed: the network is called with `images`, one batch, and what layers give each other is
    watched (`batch_norm.calls`). By default that is random [2, 3, 32, 32], or [2, 32, 32, 3] where convolutions have
    channels last. The folded network is called with it, too.

    model: a `paddle.Model` or a `paddle.nn.Layer`, which stays as it is; weights are computed in float64, and kept in
    their dtype. The new one is of the same class and runs natively (`accelerate` puts it on the engine); a model has
    the same loss and metrics, and no optimiser. Layers keep their names, a folded batch norm is a `paddle.nn.Identity`.

    Raises RecipeError for a network without batch norm or that the default images don't suit, TypeError for images that
    are no array, DataError for those that are empty, integers or not taken, and CifarHapiError where outputs differ by
    more than `tolerance` (see `Folding.difference`).
    """
    network = network_of(model)
    batch_norms(network, "fold_batch_norm")
    folded = copy.deepcopy(network)
    restore(folded)
    folded.eval()
    x = _batch(folded, images)
    before = _recorded(folded, x, images is None)
    names = {layer: name for name, layer in folded.named_sublayers(include_self=True)}
    size = _size(folded)
    folds, kept = parts(plan(folded, x, before))
    into = {name: names[fold.layer] for name, fold in folds.items()}
    for fold in folds.values():
        _fold(fold)
        _remove(folded, fold.norm)
    for norm in norm_layers(folded).values():
        if global_statistics(norm) is None:
            set_global_statistics(norm, True)
    after = record(folded, x, watched(folded))
    found = difference(after.outputs, before.outputs)
    if not found <= tolerance:  # NaN, too
        raise CifarHapiError(
            f"fold_batch_norm: the folded network differs by {found:.1e}, more than {tolerance:.1e}: "
            "its forward does not depend on its layers alone, or its numbers are too large; use it as it was"
        )
    return Folding(
        model_like(model, folded) if isinstance(model, paddle.Model) else folded,
        into,
        kept,
        parameters=(size, _size(folded)),
        multiply_adds=(_multiply_adds(before, x), _multiply_adds(after, x)),
        difference=found,
    )


def _batch(network: nn.Layer, images: Any) -> paddle.Tensor:
    dtype = network.parameters()[0].dtype
    if images is not None:
        if not hasattr(images, "shape"):
            kind = type(images).__name__
            raise TypeError(f"fold_batch_norm: images is a {kind}: expected one batch, an array of floats [N, ...]")
        array = np.asarray(images)
        if not array.size or array.dtype.kind != "f":
            found = f"{array.dtype} {list(array.shape)}"
            raise DataError(f"fold_batch_norm: images: {found}: expected floats [N, ...], as the network takes them")
        return paddle.to_tensor(array, dtype=dtype)
    last = any(layers.channels_last(layer) for layer in network.sublayers() if isinstance(layer, CONVOLUTIONS))
    shape = (2, 32, 32, 3) if last else (2, 3, 32, 32)
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape), dtype=dtype)


def _recorded(network: nn.Layer, x: paddle.Tensor, default: bool) -> Calls:
    try:
        return record(network, x, watched(network))
    except UnfitInput as error:
        if not default:
            raise DataError(f"fold_batch_norm: images: {error}") from error
        raise RecipeError(
            f"fold_batch_norm: the network does not take images of {list(x.shape)}; give it a batch that suits it: "
            "fold_batch_norm(model, images)"
        ) from error


def _fold(fold: Fold) -> None:
    """Make the norm a part of the layer, whose weights are [O, I, ...] in groups, or of a linear one [I, O]."""
    factor, offset = factor_and_offset(fold.norm)
    weight, bias = (layers.parameter(fold.layer, name) for name in ("weight", "bias"))
    linear = isinstance(fold.layer, nn.Linear)
    values = weight.numpy().astype(np.float64)
    by_output = values.T if linear else values
    start = 0.0 if bias is None else bias.numpy().astype(np.float64)
    if fold.ahead:
        inputs = _inputs(by_output.shape, factor.size)
        channels = (*inputs.shape, *[1] * (by_output.ndim - 2))
        start = start + (by_output * offset[inputs].reshape(channels)).sum(axis=tuple(range(1, by_output.ndim)))
        by_output = by_output * factor[inputs].reshape(channels)
    else:
        start = start * factor + offset
        by_output = by_output * factor.reshape(-1, *[1] * (by_output.ndim - 1))
    if bias is None:
        fold.layer.bias = bias = fold.layer.create_parameter([len(start)], is_bias=True)
    weight.set_value((by_output.T if linear else by_output).astype(weight.numpy().dtype))
    bias.set_value(start.astype(bias.numpy().dtype))


def _inputs(shape: tuple[int, ...], channels: int) -> np.ndarray:
    """Which of the `channels` each weight of [O, I, ...] multiplies, [O, I]; with groups, I is a part of them."""
    outgoing, incoming = shape[:2]
    group = np.arange(outgoing) // (outgoing * incoming // channels)
    return group[:, None] * incoming + np.arange(incoming)


def _remove(network: nn.Layer, norm: nn.Layer) -> None:
    """Put an identity in the place of `norm`, wherever it is registered."""
    for layer in network.sublayers(include_self=True):
        for name, child in layer.named_children():
            if child is norm:
                setattr(layer, name, nn.Identity())


def _size(network: nn.Layer) -> int:
    return sum(int(np.prod(tensor.shape)) for tensor in network.state_dict().values())


def _multiply_adds(calls: Calls, x: paddle.Tensor) -> int:
    """Of one image. Each weight is used once for every place of the output, padding included."""
    found = 0
    for call in calls.calls:
        values = int(np.prod(call.output[0].shape))
        if isinstance(call.layer, (*CONVOLUTIONS, nn.Linear)):
            shape = call.layer.weight.shape
            found += values * (shape[0] if isinstance(call.layer, nn.Linear) else int(np.prod(shape[1:])))
        elif isinstance(call.layer, NORMS):
            found += values
    return found // int(x.shape[0])
