"""Running statistics of batch norm, computed anew: those of all values in many batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from callbacks import random_state
from callbacks.network_input import output_of
from callbacks.paddle_model import Tensors, as_tensors, inputs_and_labels, keeps_statistics, modes_kept, network_of
from callbacks.paddle_model import weights as tensors_by_name
from callbacks.population_statistics import population_statistics, tensor_name, write
from cifar_hapi.batch_norm.arguments import batch_norms, check_counts
from cifar_hapi.batch_norm.given_images import batches_of, class_numbers, refusals_told
from cifar_hapi.batch_norm.run_images import run_session, training_images
from cifar_hapi.batch_norm.words import counted
from cifar_hapi.engine import layers
from cifar_hapi.errors import DataError, RecipeError
from cifar_hapi.loading import Weights, load
from cifar_hapi.metrics import TopK
from cifar_hapi.run import Run

_EVALUATION = "recalibrate: evaluation"


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
    images, batches: how many were gone through. model: what was given; of a run, its model. accuracy_before,
    accuracy_after: the share in [0, 1] of the evaluation images whose label has the highest logit; None where there
    were none.
    """

    changes: tuple[Change, ...]
    kept: tuple[str, ...]
    images: int
    batches: int
    model: Any = field(repr=False)
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    def __str__(self) -> str:
        of = f"{counted(self.images, 'image')} in {counted(self.batches, 'batch')}"
        lines = [f"statistics of {of}; layer, mean shift, variance ratio"]
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
    images: Any = None,
    batches: int | None = None,
    *,
    batch_size: int = 128,
    seed: int = 0,
    evaluation: Any = None,
    weights: Weights = "latest",
    data_dir: str | Path | None = None,
) -> Recalibration:
    """Give each batch-norm layer the exact mean and variance of what it is given in `images`, by its weights of now.

        recalibrate(model, images)
        save_as_run(recalibrate("runs/first", batches=10).model, "runs/mended", like="runs/first")

    "Precise batch norm" of Wu & Johnson 2021, "Rethinking Batch in BatchNorm" (arXiv 2105.07576): where the running
    averages lag behind the weights, or saw few images or other ones, evaluation gets better; nothing is trained. Over
    batches b of n_b images whose values have mean m_b and biased variance v_b in a channel, with w_b = n_b / sum(n),

        mean = sum(w_b * m_b)        variance = sum(w_b * (v_b + (m_b - mean)**2))

    which, by the law of total variance, are the mean and the biased variance of all values of all batches together, of
    equal size or not (the mean of v_b alone would lack how far batches lie apart). They are those of what the layer is
    given when the layers before it normalise by their batch, as in training; all batches count alike, unlike in the
    exponential average of training. Images of several sizes count by images, not by values.

    model: a `paddle.Model` or a `paddle.nn.Layer`, natively or on an engine; or a Run, or the path of one. Of a run,
    `run.model` is taken where `fit` has left it, else a model with its `weights`, "latest" or "best": the result is in
    `Recalibration.model`, and what the run has on disk stays as it is (`save_as_run` makes a run of it).

    images: float [N, ...], normalised as in training: an array, a pair (images, labels) or a `paddle.io.Dataset`, which
    are shuffled by `seed` and cut into batches of `batch_size` at most; or batches as for `fit`, to be shuffled and
    varied as in training. Labels are not looked at. For a run they may be absent: then its own training images, varied
    and in batches as its recipe says, looked for in `data_dir` if given. batches: how many of them, all by default;
    some thousand images are enough. evaluation: labelled images in the same forms, for the accuracy before and after.

    Weights stay as they are to the last bit, as do modes, momenta and random numbers. Frozen layers keep their
    statistics: those with `use_global_stats`, and, in a network that is in training mode, those in evaluation mode. On
    an error all is as before.

    Raises RecipeError for a network without batch norm, or where all of it is frozen, and for numbers that cannot be;
    TypeError for arguments of another kind; DataError for images that are none, that the network does not take or that
    are not to be had any more, and for statistics that are not finite; RunError for a run that can't be used;
    ValueError for no batches, or one of a single value a channel.
    """
    check_counts("recalibrate", batch_size=batch_size, **({} if batches is None else {"batches": batches}))
    if not isinstance(model, Run | str | Path):
        if images is None:
            raise RecipeError("recalibrate: a model needs images: normalised ones such as it was trained on")
        return _recalibrated(model, images, batches, batch_size, seed, evaluation)
    run = model if isinstance(model, Run) else Run(model)
    with run_session(run) as device:
        model = run.model if run.model is not None and weights == "latest" else load(run, weights)
        if images is None:
            images = training_images(run, data_dir, device, "give images to recalibrate")
        return _recalibrated(model, images, batches, batch_size, seed, evaluation)


def _recalibrated(
    given: Any, images: Any, batches: int | None, batch_size: int, seed: int, evaluation: Any
) -> Recalibration:
    norms, network = batch_norms(given, "recalibrate"), network_of(given)
    model = given if isinstance(given, paddle.Model) else paddle.Model(network)
    moving = _moving(network, norms)
    data = itertools.islice(batches_of(images, batch_size, "recalibrate: images", seed), batches)
    before = tensors_by_name(model)
    labelled = _labelled(evaluation, batch_size)
    accuracy_before = _accuracy(model, labelled)
    with refusals_told("recalibrate: images"):
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
        model=given,
        accuracy_before=accuracy_before,
        accuracy_after=_accuracy(model, labelled),
    )


def _moving(network: nn.Layer, norms: dict[str, nn.Layer]) -> dict[str, nn.Layer]:
    """The layers that are not frozen; in a network that is evaluated, the mode of one says nothing."""
    moving = {
        name: norm for name, norm in norms.items() if keeps_statistics(norm) and (norm.training or not network.training)
    }
    if not moving:
        raise RecipeError("recalibrate: all batch-norm layers are frozen (use_global_stats, or eval() of them alone)")
    return moving


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
    if evaluation is None:
        return None
    if isinstance(evaluation, Iterator):
        raise RecipeError(
            "recalibrate: evaluation is gone through twice, an iterator only once; give a list or a loader"
        )
    batches = batches_of(evaluation, batch_size, _EVALUATION)
    return list(batches) if isinstance(batches, Iterator) else batches


def _accuracy(model: Any, batches: Any) -> float | None:
    if batches is None:
        return None
    accuracy = TopK()
    with random_state.undrawn(), modes_kept(model.network), paddle.no_grad(), refusals_told(_EVALUATION):
        model.network.eval()
        for batch in batches:
            inputs, targets = inputs_and_labels(model, batch)
            if len(targets) != 1:
                raise DataError(f"{_EVALUATION}: a batch has {len(targets)} labels, not 1")
            output = output_of(model.network, as_tensors(inputs))
            accuracy.update(output.numpy(), class_numbers(targets[0], _EVALUATION))
    return accuracy.accumulate()[0]


def _change(layer: str, epsilon: float, before: Tensors, after: Tensors) -> Change:
    mean, variance = tensor_name(layer, "_mean"), tensor_name(layer, "_variance")
    scale = before[variance].astype(np.float64) + epsilon
    shift = (after[mean].astype(np.float64) - before[mean]) / np.sqrt(scale)
    return Change(layer, shift, (after[variance] + epsilon) / scale)
