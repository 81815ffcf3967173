"""Batch-norm layers that stop following batches, for fine-tuning and for small batches."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from paddle import nn

from callbacks.paddle_model import global_statistics, set_global_statistics
from cifar_hapi.batch_norm.arguments import batch_norms
from cifar_hapi.batch_norm.words import counted
from cifar_hapi.errors import RecipeError


class FrozenBatchNorm:
    """What `freeze_batch_norm` has done, and how to undo it: `undo()`, or the end of a `with`.

    layers: the names of the layers that it froze.
    """

    def __init__(self, norms: dict[str, nn.Layer], scale_and_shift: bool):
        self.layers = tuple(norms)
        self._global = [(norm, global_statistics(norm)) for norm in norms.values()]
        learning = [p for norm in norms.values() for p in norm.parameters() if not p.stop_gradient]
        self._learning = learning if scale_and_shift else []

    def __repr__(self) -> str:
        what = "running statistics, scale and shift" if self._learning else "running statistics"
        return f"FrozenBatchNorm({what} of {counted(len(self.layers), 'batch norm')} stay; undo() ends it)"

    def freeze(self) -> None:
        for norm, _ in self._global:
            set_global_statistics(norm, True)
        for parameter in self._learning:
            parameter.stop_gradient = True

    def undo(self) -> None:
        """Make the layers what they were: they follow batches again, and their scale and shift learn."""
        for norm, before in self._global:
            set_global_statistics(norm, before)
        for parameter in self._learning:
            parameter.stop_gradient = False

    def __enter__(self) -> FrozenBatchNorm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


def freeze_batch_norm(model: Any, *, scale_and_shift: bool = False) -> FrozenBatchNorm:
    """Make all batch-norm layers of `model` normalise by their running statistics, in training, too, and keep them.

        with freeze_batch_norm(model):
            model.fit(small_batches, epochs=3)

    model: a `paddle.Model` or a `paddle.nn.Layer`. It lasts through `fit`, whose `train()` would undo an `eval()` of
    the layers: they get Paddle's `use_global_stats`. scale_and_shift: whether these stop learning, too. Gradients of
    the input are then those of a linear function (`batch_norm.formulas.evaluation_backward`).

    Returns what undoes it. Layers that are frozen already stay so. Raises RecipeError for a `SyncBatchNorm`, which
    knows no such thing, and where there is nothing to freeze.
    """
    norms = batch_norms(model, "freeze_batch_norm")
    synchronised = [name for name, norm in norms.items() if isinstance(norm, nn.SyncBatchNorm)]
    if synchronised:
        raise RecipeError(
            f"freeze_batch_norm: {synchronised[0]} is a SyncBatchNorm, which always follows batches in training; "
            "freeze a network with BatchNorm layers"
        )
    frozen = FrozenBatchNorm(norms, scale_and_shift)
    frozen.freeze()
    return frozen
