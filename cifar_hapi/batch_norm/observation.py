"""What is known of a network and its batch norm, as plain data: all that the rules of a diagnosis look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cifar_hapi.batch_norm.arguments import check_counts


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a layer was given, by channel: float64 [C] each, over all images and places.

    between: the variance of the images' own means, of which that of a batch's mean follows: between / batch size.
    spread: the variance of the images' own mean square deviations from `mean`, whose mean `variance` is.
    images: how many. values: of an image in a channel, 1 for vectors.
    """

    mean: np.ndarray
    variance: np.ndarray
    between: np.ndarray
    spread: np.ndarray
    low: np.ndarray
    high: np.ndarray
    images: int
    values: int


@dataclass(frozen=True, eq=False)
class NormLayer:
    """One batch norm.

    scale, shift, running_mean, running_variance: float32 [C]. momentum: the weight of the old running statistics.
    training: its mode. frozen: by `use_global_stats`. always_by_batch: by `use_global_stats=False`, in evaluation, too.
    learns: whether scale and shift are to have gradients, None for one that it has not. decay: the weight decay of
    scale and shift, None where no optimiser is known.

    deployed: what it is given in evaluation mode. trained: what it is given where all normalise by the batch, as in
    training. positive: the share of its outputs, float32 [C], that a ReLU right behind it lets through; None without.
    """

    name: str
    scale: np.ndarray
    shift: np.ndarray
    running_mean: np.ndarray
    running_variance: np.ndarray
    momentum: float
    epsilon: float
    training: bool
    frozen: bool
    always_by_batch: bool
    learns: tuple[bool | None, bool | None]
    decay: tuple[float, float] | None
    deployed: Inputs
    trained: Inputs
    positive: np.ndarray | None

    @property
    def at_start(self) -> bool:
        """Whether running mean and variance are 0 and 1 in all channels, which they begin with."""
        return bool(not self.running_mean.any() and (self.running_variance == 1).all())


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a network answers for each of N images. losses: cross-entropy, natural logarithm. correct: bool [N]."""

    losses: np.ndarray
    correct: np.ndarray

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


@dataclass(frozen=True, eq=False)
class Shifted:
    """The network on test images. inputs: of each layer in evaluation mode, by name.

    usual, recalibrated: with the running statistics, and with those of the test images; None without labels.
    """

    inputs: Mapping[str, Inputs]
    usual: Outcome | None
    recalibrated: Outcome | None


@dataclass(frozen=True)
class Training:
    """How the network was, or is to be, trained; None where that is not known.

    batch_size: images a step, images: those an epoch, both of one process. drop_last: whether a short last batch is
    left out. steps: how many were taken. Raises RecipeError for numbers that cannot be.
    """

    batch_size: int | None = None
    images: int | None = None
    drop_last: bool = False
    steps: int | None = None

    def __post_init__(self) -> None:
        given = {name: count for name in ("batch_size", "images") if (count := getattr(self, name)) is not None}
        check_counts("Training", **given)
        if self.steps is not None:
            check_counts("Training", least=0, steps=self.steps)

    @property
    def last_batch(self) -> int | None:
        """Images in an epoch's last batch."""
        if self.batch_size is None or self.images is None:
            return None
        return (0 if self.drop_last else self.images % self.batch_size) or self.batch_size


@dataclass(frozen=True, eq=False)
class Observation:
    """A network, seen on N images. layers: in the order in which they are called; unused: those that are never.

    training: whether the network as a whole was in training mode. by_running, by_batch: the outcome on the same images
    with running statistics and with those of the batch; None without labels. processes: the tensors of other processes'
    networks by name, to be compared with `tensors`, its own.
    """

    layers: Sequence[NormLayer]
    unused: Sequence[str]
    images: int
    training_mode: bool
    by_running: Outcome | None
    by_batch: Outcome | None
    tensors: Mapping[str, np.ndarray]
    processes: Sequence[Mapping[str, np.ndarray]] = ()
    training: Training = Training()
    test: Shifted | None = None

    @cached_property
    def by_name(self) -> dict[str, NormLayer]:
        return {layer.name: layer for layer in self.layers}


@dataclass(frozen=True, eq=False)
class Distance:
    """How far running statistics are from those of inputs, by channel.

    mean: (running - true) / true standard deviation. log_ratio: of the variances, running to true. mean_noise,
    log_ratio_noise: their variances that are due to there being no more images, to first order. Epsilon counts as
    variance, as where it is divided by.
    """

    mean: np.ndarray
    log_ratio: np.ndarray
    mean_noise: np.ndarray
    log_ratio_noise: np.ndarray

    @property
    def typical_mean(self) -> float:
        """The root mean square over channels, less what noise explains."""
        return _typical(self.mean, self.mean_noise)

    @property
    def typical_log_ratio(self) -> float:
        """The root mean square over channels, less what noise explains."""
        return _typical(self.log_ratio, self.log_ratio_noise)


def distance(layer: NormLayer, inputs: Inputs) -> Distance:
    """From the layer's running statistics to those of `inputs`."""
    running, true = (each + layer.epsilon for each in (layer.running_variance, inputs.variance))
    with np.errstate(all="ignore"):  # statistics that are broken have a rule of their own
        mean = (layer.running_mean - inputs.mean) / np.sqrt(true)
        noises = inputs.between / inputs.images / true, inputs.spread / inputs.images / true**2
        return Distance(mean, np.log(running / true), *noises)


def _typical(distances: np.ndarray, noise: np.ndarray) -> float:
    return float(np.sqrt(max(0.0, np.mean(distances**2 - noise))))
