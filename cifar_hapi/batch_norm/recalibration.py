"""Running statistics of batch norm, computed anew: those of all values in many batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn

from callbacks.paddle_model import Tensors, keeps_statistics, modes_kept, network_of, norm_layers, weights
from callbacks.population_statistics import population_statistics, tensor_name, write
from cifar_hapi.engine import layers
from cifar_hapi.errors import DataError, RecipeError
from cifar_hapi.metrics import TopK
from cifar_hapi.model import Model


@dataclass(frozen=True, eq=False)
class Change:
    """What recalibration did to one layer: `mean_shift` and `variance_ratio`, both [C].

    mean_shift: (new - old mean) / sqrt(old variance + epsilon), by how many standard deviations it moved.
    variance_ratio: (new variance + epsilon) / (old variance + epsilon).
    """

    layer: str
    mean_shift: np.ndarray
    variance_ratio: np.ndarray


@dataclass(frozen=True)
class Recalibration:
    """What `recalibrate` did; as text, a table.

    changes: one a layer. kept: the layers that kept their statistics: frozen ones and those that no image reached.
    images, batches: how many were gone through. accuracy_before, accuracy_after: the share in [0, 1] of the evaluation
    images whose label has the highest logit; None where there were none.
    """

    changes: tuple[Change, ...]
    kept: tuple[str, ...]
    images: int
    batches: int
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    def __str__(self) -> str:
        lines = [f"statistics of {self.images} images in {self.batches} batches; layer, mean shift, variance ratio"]
        for each in self.changes:
            shift, ratio = np.abs(each.mean_shift), each.variance_ratio
            lines.append(
                f"{each.layer or 'the network'}: {np.median(shift):.3g} (up to {shift.max():.3g}), "
                f"{np.median(ratio):.3g} ({ratio.min():.3g} to {ratio.max():.3g})"
            )
        if self.kept:
            lines.append(f"kept as they were: {', '.join(self.kept)}")
        if self.accuracy_before is not None and self.accuracy_after is not None:
            lines.append(f"accuracy: {self.accuracy_before:.2%} before, {self.accuracy_after:.2%} after")
        return "\n".join(lines)


def recalibrate(
    model: Any,
    images: Any,
    batches: int | None = None,
    *,
    batch_size: int = 128,
    seed: int = 0,
    evaluation: Any = None,
) -> Recalibration:
    """Give each batch-norm layer the exact mean and variance of what it is given in `images`, by its weights of now.

    "Precise batch norm" of Wu & Johnson 2021, "Rethinking Batch in BatchNorm" (arXiv 2105.07576): where the running
    averages lag behind the weights, or saw few images or other ones, evaluation gets better; nothing is trained. Over
    batches b of n_b images whose values have mean m_b and biased variance v_b in a channel, with w_b = n_b / sum(n),

        mean = sum(w_b * m_b)        variance = sum(w_b * (v_b + (m_b - mean)**2))

    which, by the law of total variance, are the mean and the biased variance of all values of all batches together, of
    equal size or not (the mean of v_b alone would lack how far batches lie apart). They are those of what the layer is
    given when the layers before it normalise by their batch, as in training; all batches count alike, unlike in the
    exponential average of training. Images of several sizes count by images, not by values.

    model: a `paddle.Model` or a `paddle.nn.Layer`, natively or on an engine. images: an iterable of batches as for
    `fit` (what follows on the inputs, such as labels, is left out), to be shuffled and varied as in training; or one
    array, float [N, ...], normalised as in training, which is shuffled by `seed` and cut into batches of `batch_size`
    at most. batches: how many of them, all by default; some thousand images are enough. evaluation: labelled batches,
    as for `evaluate`, or a pair of arrays (images, labels), for the accuracy before and after.

    Weights stay as they are to the last bit, as do modes, momenta and random numbers. Frozen layers keep their
    statistics: those with `use_global_stats`, and, in a network that is in training mode, those in evaluation mode. On
    an error all is as before.

    Raises RecipeError for a network without batch norm, or where all of it is frozen, and for numbers that cannot be;
    DataError for an array that is empty or of integers, and for statistics that are not finite; ValueError for no
    batches, or one of a single value a channel.
    """
    network = network_of(model)
    model = model if isinstance(model, paddle.Model) else paddle.Model(network)
    norms = norm_layers(network)
    moving = _moving(network, norms)
    data = _batches(images, batches, batch_size, seed)
    before = weights(model)
    labelled = _labelled(evaluation, batch_size)
    accuracy_before = _accuracy(network, labelled)
    found = population_statistics(model, data, moving)
    _check_finite(found.statistics)
    write(model, found.statistics)
    changes = tuple(
        _change(name, layers.epsilon(norm), before, found.statistics)
        for name, norm in norms.items()
        if tensor_name(name, "_mean") in found.statistics
    )
    changed = {change.layer for change in changes}
    return Recalibration(
        changes,
        kept=tuple(name for name in norms if name not in changed),
        images=found.images,
        batches=found.batches,
        accuracy_before=accuracy_before,
        accuracy_after=_accuracy(network, labelled),
    )


def _moving(network: nn.Layer, norms: dict[str, nn.Layer]) -> dict[str, nn.Layer]:
    """The layers that are not frozen; in a network that is evaluated, the mode of one says nothing."""
    if not norms:
        raise RecipeError("recalibrate: the network has no batch-norm layer")
    moving = {
        name: norm for name, norm in norms.items() if keeps_statistics(norm) and (norm.training or not network.training)
    }
    if not moving:
        raise RecipeError("recalibrate: all batch-norm layers are frozen (use_global_stats, or eval() of them alone)")
    return moving


def _batches(images: Any, count: int | None, batch_size: int, seed: int) -> Iterable[Any]:
    if count is not None and count < 1:
        raise RecipeError(f"recalibrate: batches = {count}: must be at least 1")
    every = _cut(images, batch_size, seed) if hasattr(images, "shape") else images
    return itertools.islice(every, count)


def _cut(images: Any, batch_size: int, seed: int) -> Iterator[list[np.ndarray]]:
    """Batches of one array, in a random order: images that are sorted by class would make odd batches."""
    array = np.asarray(images)
    if batch_size < 1:
        raise RecipeError(f"recalibrate: batch_size = {batch_size}: must be at least 1")
    if not len(array) or array.dtype.kind != "f":
        found = f"{array.dtype} {list(array.shape)}"
        raise DataError(f"recalibrate: images: {found}: expected floats [N, ...], normalised as in training")
    order = np.random.default_rng(seed).permutation(len(array))
    places = np.array_split(order, math.ceil(len(array) / batch_size))  # none of them far smaller than the others
    return ([array[place].astype(np.float32)] for place in places)


def _check_finite(statistics: Tensors) -> None:
    for name, values in statistics.items():
        if not np.isfinite(values).all():
            wrong = int((~np.isfinite(values)).sum())
            raise DataError(
                f"recalibrate: {name} would be no number in {wrong} of {values.size} channels: images, or weights, "
                "hold NaN or infinity; all is left as it was"
            )


def _labelled(evaluation: Any, batch_size: int) -> Any:
    """Batches that can be gone through twice, or None."""
    if isinstance(evaluation, Iterator):
        raise RecipeError(
            "recalibrate: evaluation is gone through twice, an iterator only once; give a list or a loader"
        )
    if not isinstance(evaluation, tuple) or len(evaluation) != 2 or not hasattr(evaluation[0], "shape"):
        return evaluation
    images, labels = (np.asarray(part) for part in evaluation)
    starts = range(0, len(images), batch_size)
    return [(images[start : start + batch_size], labels[start : start + batch_size]) for start in starts]


def _accuracy(network: nn.Layer, batches: Any) -> float | None:
    if batches is None:
        return None
    model = Model(network)
    model.prepare(metrics=[TopK()])
    with modes_kept(network):
        return float(model.evaluate(batches, verbose=0)["acc"])


def _change(layer: str, epsilon: float, before: Tensors, after: Tensors) -> Change:
    mean, variance = tensor_name(layer, "_mean"), tensor_name(layer, "_variance")
    scale = before[variance].astype(np.float64) + epsilon
    shift = (after[mean].astype(np.float64) - before[mean]) / np.sqrt(scale)
    return Change(layer, shift, (after[variance] + epsilon) / scale)
