"""Batch normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167) as formulas, in plain NumPy, and Paddle's conventions.

Of a channel with values x, n of them, in training:

    mean = sum(x) / n,  variance = sum((x - mean)**2) / n,  xhat = (x - mean) / sqrt(variance + epsilon)
    y = scale * xhat + shift
    running = momentum * running + (1 - momentum) * batch          (of the mean, and of the variance)

and in evaluation the running statistics take the place of the batch's, so that y is factor * x + offset. That is what
`paddle.nn.BatchNorm1D`, `2D` and `3D` of Paddle 2.6.2 and 3.3.1 compute, but for one case: in training, with n = 1 they
give x as it is (the formula gives the shift), pass the gradient on, and leave the running statistics alone.

Arrays are floats [N, C, ...], or with channels elsewhere as `axis` says; statistics, scale and shift are [C]. Results
have the dtype that NumPy gives them: give float64 for a reference. `epsilon` is 1e-5 in Paddle. The statistics of many
batches together are `pooled`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from callbacks.population_statistics import pooled

__all__ = [
    "Gradients",
    "affine",
    "batch_statistics",
    "evaluation_backward",
    "evaluation_forward",
    "normalised",
    "pooled",
    "pytorch_momentum",
    "training_backward",
    "training_forward",
    "unbiased",
    "updated",
]


class Gradients(NamedTuple):
    """Of a loss, with respect to the input, like x, and to scale and shift, [C]."""

    x: np.ndarray
    scale: np.ndarray
    shift: np.ndarray


def batch_statistics(x: np.ndarray, axis: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance (divided by n) of each channel, [C]."""
    others = _others(x, axis)
    return x.mean(axis=others), x.var(axis=others)


def normalised(
    x: np.ndarray, mean: np.ndarray, variance: np.ndarray, epsilon: float = 1e-5, axis: int = 1
) -> np.ndarray:
    """xhat: (x - mean) / sqrt(variance + epsilon)."""
    return (x - _along(mean, x, axis)) / _along(np.sqrt(variance + epsilon), x, axis)


def training_forward(
    x: np.ndarray, scale: np.ndarray, shift: np.ndarray, epsilon: float = 1e-5, axis: int = 1
) -> np.ndarray:
    """y of training mode, which normalises by the statistics of the batch."""
    xhat = normalised(x, *batch_statistics(x, axis), epsilon, axis)
    return _along(scale, x, axis) * xhat + _along(shift, x, axis)


def updated(running: np.ndarray, batch: np.ndarray, momentum: float = 0.9) -> np.ndarray:
    """The running mean or variance after a batch; `momentum` weighs the old value, and variances are biased."""
    return momentum * running + (1 - momentum) * batch


def pytorch_momentum(momentum: float) -> float:
    """The `momentum` of `torch.nn.BatchNorm2d` that averages as this one does here: it weighs the new value there."""
    return 1 - momentum


def unbiased(variance: np.ndarray, count: int) -> np.ndarray:
    """The variance divided by n - 1, which PyTorch's running variance takes, from that divided by n = `count`."""
    if count < 2:
        raise ValueError(f"count = {count}: of fewer than 2 values there is no unbiased variance")
    return variance * (count / (count - 1))


def affine(
    mean: np.ndarray, variance: np.ndarray, scale: np.ndarray, shift: np.ndarray, epsilon: float = 1e-5
) -> tuple[np.ndarray, np.ndarray]:
    """factor and offset of evaluation mode, [C]: y = factor * x + offset."""
    factor = _factor(variance, scale, epsilon)
    return factor, shift - factor * mean


def evaluation_forward(
    x: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    epsilon: float = 1e-5,
    axis: int = 1,
) -> np.ndarray:
    """y of evaluation mode, and of a frozen layer, which normalise by the running statistics."""
    factor, offset = affine(mean, variance, scale, shift, epsilon)
    return _along(factor, x, axis) * x + _along(offset, x, axis)


def training_backward(
    gy: np.ndarray, x: np.ndarray, scale: np.ndarray, epsilon: float = 1e-5, axis: int = 1
) -> Gradients:
    """Gradients in training mode, `gy` being that with respect to y.

    The batch's mean and variance depend on x: gx = scale / sqrt(variance + epsilon) * (gy - mean(gy) - xhat * mean(gy *
    xhat)), with means over the channel.
    """
    mean, variance = batch_statistics(x, axis)
    found = evaluation_backward(gy, x, mean, variance, scale, epsilon, axis)
    count = x.size // len(mean)
    xhat = normalised(x, mean, variance, epsilon, axis)
    through = _along(found.shift / count, x, axis) + xhat * _along(found.scale / count, x, axis)
    return found._replace(x=found.x - _along(_factor(variance, scale, epsilon), x, axis) * through)


def evaluation_backward(
    gy: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    scale: np.ndarray,
    epsilon: float = 1e-5,
    axis: int = 1,
) -> Gradients:
    """Gradients in evaluation mode, and of a frozen layer: mean and variance are constants."""
    others = _others(x, axis)
    xhat = normalised(x, mean, variance, epsilon, axis)
    gx = _along(_factor(variance, scale, epsilon), x, axis) * gy
    return Gradients(gx, (gy * xhat).sum(axis=others), gy.sum(axis=others))


def _factor(variance: np.ndarray, scale: np.ndarray, epsilon: float) -> np.ndarray:
    return scale / np.sqrt(variance + epsilon)


def _others(x: np.ndarray, axis: int) -> tuple[int, ...]:
    """All axes but that of the channels."""
    return tuple(each for each in range(x.ndim) if each != axis % x.ndim)


def _along(values: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    """[C] as an array that broadcasts over the channels of `x`."""
    return np.expand_dims(values, _others(x, axis))
