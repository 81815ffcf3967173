"""Batch norm over the images of all processes, by sums that each contributes to; Paddle's own is for GPUs alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from callbacks.paddle_model import keeps_statistics
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
        with paddle.no_grad():
            seen = _of_all(self, x)
            for running, batch in ((self._mean, seen.mean), (self._variance, seen.variance)):
                paddle.assign(self._momentum * running + (1 - self._momentum) * batch, running)
        return _Normalise.apply(x, self.weight, self.bias, seen)


@dataclass(frozen=True)
class _Statistics:
    """mean, variance: of all, float32 [C], the variance biased. count: of values a channel."""

    mean: paddle.Tensor
    variance: paddle.Tensor
    count: float
    epsilon: float
    data_format: str

    def normalised(self, x: paddle.Tensor, scale: paddle.Tensor, shift: paddle.Tensor) -> paddle.Tensor:
        """(x - mean) / sqrt(variance + epsilon) * scale + shift; by Paddle's kernel: broadcasting is slow."""
        options = {"training": False, "epsilon": self.epsilon, "data_format": self.data_format}
        return F.batch_norm(x, self.mean, self.variance, scale, shift, **options)


def _of_all(norm: nn.BatchNorm2D, x: paddle.Tensor) -> _Statistics:
    channels = int(norm._mean.size)
    own, variance = _of_this_process(norm, x)
    # float64: from mean and mean of squares, which add up, a small variance beside a large mean comes out exactly.
    mean, count = own.astype("float64"), paddle.full([1], x.size // channels, "float64")
    sums = [count * mean, count * (variance.astype("float64") + mean * mean), count.clone()]
    ranks.add_up(sums)
    total, squares, count = sums
    mean = total / count
    variance = (squares / count - mean * mean).clip(min=0.0)
    options = (count.item(), norm._epsilon, norm._data_format)
    return _Statistics(mean.astype("float32"), variance.astype("float32"), *options)


def _of_this_process(norm: nn.BatchNorm2D, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Mean and variance of x: running statistics of which nothing old remains."""
    mean, variance = paddle.zeros_like(norm._mean), paddle.zeros_like(norm._variance)
    if x.size == mean.size:  # Paddle leaves them alone then
        return x.flatten().astype("float32"), variance
    options = {"training": True, "momentum": 0.0, "data_format": norm._data_format}
    F.batch_norm(x, mean, variance, norm.weight, norm.bias, **options)
    return mean, variance


class _Normalise(PyLayer):
    """`_Statistics.normalised`, where mean and variance depend on every process's x.

    The gradients of scale and shift are this process's part, that of x is of the loss of all (Ioffe & Szegedy 2015,
    arXiv 1502.03167, section 3).
    """

    @staticmethod
    def forward(
        ctx: Any, x: paddle.Tensor, scale: paddle.Tensor, shift: paddle.Tensor, seen: _Statistics
    ) -> paddle.Tensor:
        ctx.save_for_backward(x, scale, shift)
        ctx.seen = seen
        ctx.needed = [not each.stop_gradient for each in (x, scale, shift)]
        return seen.normalised(x, scale, shift)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> tuple[paddle.Tensor | None, ...]:
        seen, (x, scale, shift) = ctx.seen, ctx.saved_tensor()
        of_x, of_scale, of_shift = _with_statistics_held(seen, (x, scale, shift), gradient)
        sums = [of_scale.clone(), of_shift.clone()]
        ranks.add_up(sums)
        # What x does through mean and variance is for each channel a line in x.
        factor = scale * (seen.variance + seen.epsilon).rsqrt() / seen.count
        found = (of_x - seen.normalised(x, *(factor * each for each in sums)), of_scale, of_shift)
        return tuple(each if needed else None for each, needed in zip(found, ctx.needed, strict=True))


def _with_statistics_held(
    seen: _Statistics, inputs: Sequence[paddle.Tensor], gradient: paddle.Tensor
) -> list[paddle.Tensor]:
    """The gradients of x, scale and shift where mean and variance are constants."""
    leaves = [each.detach() for each in inputs]
    for leaf in leaves:
        leaf.stop_gradient = False
    with paddle.enable_grad():
        y = seen.normalised(*leaves)
    paddle.autograd.backward([y], [gradient])
    return [leaf.grad for leaf in leaves]
