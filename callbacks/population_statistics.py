"""Mean and variance of what batch-norm layers are given in many batches: of all values, not an exponential average."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn

from callbacks import random_state
from callbacks.network_input import UnfitInput, output_of
from callbacks.paddle_model import Tensors, as_tensors, batch_statistics, inputs_and_labels

_NOT_SEEN = -1.0  # no variance, so that a layer that a batch has not reached can be told


@dataclass(frozen=True)
class Population:
    """statistics: running means and variances by their names in the network; of how many images and batches."""

    statistics: Tensors
    images: int
    batches: int


def population_statistics(model: Any, batches: Iterable[Any], norms: dict[str, nn.Layer]) -> Population:
    """Mean and (biased) variance of each channel that `norms`, by name, are given in all of `batches`.

    Layers normalise by the batch meanwhile, all else is in evaluation mode. Nothing stays changed: neither running
    statistics nor modes, momenta and random numbers. A batch counts by its images. A layer that no batch reaches has
    no entry; one that is called several times in a pass has the statistics of its last call.

    Raises ValueError if there is no batch, or if one has a single value a channel, where Paddle leaves the statistics
    as they were; UnfitInput, which is one, for a batch that the network does not take.
    """
    names = {name: (tensor_name(name, "_mean"), tensor_name(name, "_variance")) for name in norms}
    found: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {name: [] for name in norms}
    before = _read(model, names)
    sizes = []
    try:
        with random_state.undrawn(), batch_statistics(model, norms.values()), paddle.no_grad():
            for batch in batches:
                parts = as_tensors(inputs_and_labels(model, batch)[0])
                sizes.append(int(parts[0].shape[0]))
                # Not what they were: a momentum of 0 times NaN would be NaN.
                write(model, {name: np.full_like(array, _NOT_SEEN) for name, array in before.items()})
                _show(model.network, parts, len(sizes) - 1)
                now = _read(model, names)
                for norm, (mean, variance) in names.items():
                    if _reached(now[variance], norm, sizes):
                        found[norm].append((sizes[-1], now[mean], now[variance]))
    finally:
        write(model, before)
    if not sizes:
        raise ValueError("batches has none (left; can it be gone through more than once?)")
    statistics: Tensors = {}
    for norm, seen in found.items():
        if seen:
            statistics.update(zip(names[norm], pooled(*zip(*seen, strict=True)), strict=True))
    return Population(statistics, sum(sizes), len(sizes))


def pooled(
    sizes: Sequence[int], means: Sequence[np.ndarray], variances: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance over all values of groups that have these sizes, means and biased variances, each [C].

    With the shares w = sizes / sum(sizes): mean = sum(w * means), and variance = sum(w * (variances + (means -
    mean)**2)), the mean of the variances and the variance of the means. Summed in float64, given in the dtype of the
    first.
    """
    share = np.asarray(sizes, np.float64) / np.sum(sizes)
    each_mean, each_variance = np.stack(means), np.stack(variances)
    with np.errstate(all="ignore"):  # of what is no number comes no number, and that is looked for elsewhere
        mean = share @ each_mean
        variance = share @ (each_variance + (each_mean - mean) ** 2)
    return mean.astype(each_mean.dtype), variance.astype(each_variance.dtype)


def write(model: Any, tensors: Tensors) -> None:
    """Put `tensors` in place of those that have their names in the network; the others are not touched."""
    state = model.network.state_dict()
    for name, array in tensors.items():
        state[name].set_value(array)


def tensor_name(layer: str, tensor: str) -> str:
    """The name in a network of a layer's tensor; a network that is one layer has no name before it."""
    return f"{layer}.{tensor}" if layer else tensor


def _show(network: nn.Layer, parts: list[paddle.Tensor], number: int) -> None:
    try:
        output_of(network, parts)
    except UnfitInput as error:
        raise UnfitInput(f"batch {number}: {error}") from error


def _read(model: Any, names: dict[str, tuple[str, str]]) -> Tensors:
    state = model.network.state_dict()
    return {name: state[name].numpy() for pair in names.values() for name in pair}


def _reached(variance: np.ndarray, norm: str, sizes: list[int]) -> bool:
    """Whether the last batch has left statistics in a layer."""
    if (variance != _NOT_SEEN).any():
        return True
    if sizes[-1] == 1:
        raise ValueError(
            f"batch {len(sizes) - 1} has one image, and {norm or 'the network'} no variance of it: "
            "leave it out (drop_last), or make batches larger"
        )
    return False
