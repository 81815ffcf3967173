"""Batch norm over the images of all processes, by sums that each contributes to; Paddle's own is for GPUs alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from callbacks.paddle_model import all_axes_but_channels, keeps_statistics
from cifar_hapi.distributed import ranks

_together = False


def synchronise(network: nn.Layer) -> None:
    """Make the `BatchNorm2D`s of `network` normalise by the batch of all processes; with one process, nothing changes.

    They do so within `together`, and are plain batch norm elsewhere, such as where one process alone looks at what
    layers see. Parameters, running statistics, names, hooks and settings stay, and fit optimisers and checkpoints.
    """
    if ranks.count() == 1:
        return
    for layer in network.sublayers(include_self=True):
        if type(layer) is nn.BatchNorm2D:
            layer.__class__ = (
                SyncBatchNorm2D  # rather than a new layer, which would have to take over all that it holds
            )


@contextmanager
def together() -> Iterator[None]:
    """Within it all processes call the same layers in the same order."""
    global _together
    _together = True
    try:
        yield
    finally:
        _together = False


class SyncBatchNorm2D(nn.BatchNorm2D):
    """`BatchNorm2D` whose mean and variance, in training, are those of all processes' images, however these are shared.

    Each loss must be its process's share of the loss of all, and gradients of parameters be summed (as
    `cifar_hapi.Model` does). Two small sums a layer and step: [2 C + 1] float64 forwards, [2 C] float32 backwards.
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not (_together and self.training and keeps_statistics(self)):
            return super().forward(x)
        axes = all_axes_but_channels(self, x.ndim)
        with paddle.no_grad():
            statistics = _statistics_of_all(x.astype("float32"), axes)
            for running, batch in ((self._mean, statistics.mean), (self._variance, statistics.variance)):
                paddle.assign(self._momentum * running + (1 - self._momentum) * batch, running)
        return _Normalise.apply(x, self.weight, self.bias, statistics, axes, self._epsilon)


@dataclass(frozen=True)
class _Statistics:
    """mean, variance: of all, float32 [C], the variance biased. count: of values a channel."""

    mean: paddle.Tensor
    variance: paddle.Tensor
    count: float


def _statistics_of_all(x: paddle.Tensor, axes: Sequence[int]) -> _Statistics:
    mean = x.mean(axes)
    variance = (x - _beside(mean, x, axes)).square().mean(axes)
    channels = int(mean.size)
    # float64: from mean and mean of squares, which add up, a small variance beside a large mean comes out exactly.
    own, count = mean.astype("float64"), paddle.full([1], x.size // channels, "float64")
    sums = [count * own, count * (variance.astype("float64") + own * own), count.clone()]
    ranks.add_up(sums)
    total, squares, count = sums
    mean = total / count
    variance = (squares / count - mean * mean).clip(min=0.0)
    return _Statistics(mean.astype("float32"), variance.astype("float32"), count.item())


class _Normalise(PyLayer):
    """(x - mean) / sqrt(variance + epsilon) * scale + shift, where mean and variance depend on every process's x.

    The gradients of scale and shift are this process's part, that of x is of the loss of all (Ioffe & Szegedy 2015,
    arXiv 1502.03167, section 3).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: paddle.Tensor,
        scale: paddle.Tensor,
        shift: paddle.Tensor,
        statistics: _Statistics,
        axes: Sequence[int],
        epsilon: float,
    ) -> paddle.Tensor:
        inverse = (statistics.variance + epsilon).rsqrt()
        centred = x.astype("float32") - _beside(statistics.mean, x, axes)
        normal = centred * _beside(inverse, x, axes)
        ctx.save_for_backward(normal, scale, inverse)
        ctx.count, ctx.axes = statistics.count, axes
        ctx.needed = [not each.stop_gradient for each in (x, scale, shift)]
        return (normal * _beside(scale, x, axes) + _beside(shift, x, axes)).astype(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> tuple[paddle.Tensor | None, ...]:
        normal, scale, inverse = ctx.saved_tensor()
        given = gradient.astype("float32")
        of_shift, of_scale = given.sum(ctx.axes), (given * normal).sum(ctx.axes)
        sums = [of_shift.clone(), of_scale.clone()]
        ranks.add_up(sums)
        mean, slope = (_beside(each / ctx.count, normal, ctx.axes) for each in sums)
        of_x = (given - mean - normal * slope) * _beside(scale * inverse, normal, ctx.axes)
        found = (of_x.astype(gradient.dtype), of_scale, of_shift)
        return tuple(each if needed else None for each, needed in zip(found, ctx.needed, strict=True))


def _beside(channels: paddle.Tensor, x: paddle.Tensor, axes: Sequence[int]) -> paddle.Tensor:
    """[C], shaped so that it meets the channels of x."""
    return channels.reshape([1 if axis in axes else -1 for axis in range(x.ndim)])
