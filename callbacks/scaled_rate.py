"""A learning rate that is lower than its schedule says."""

from __future__ import annotations

from typing import Any

from paddle.optimizer.lr import LRScheduler

from callbacks.paddle_model import learning_rate, optimizer, scheduler


def scale_rate(model: Any, factor: float) -> None:
    """Multiply the rate of the next step, and of all after it, by `factor`, whatever schedule it follows."""
    plan = scheduler(model)
    if plan is None:
        optimizer(model).set_lr(learning_rate(model) * factor)
    elif isinstance(plan, ScaledRate):
        plan.factor *= factor
    else:
        optimizer(model).set_lr_scheduler(ScaledRate(plan, factor))


class ScaledRate(LRScheduler):
    """`factor` times the rates of `inner`, whose state is its own: a checkpoint doesn't know the difference."""

    def __init__(self, inner: LRScheduler, factor: float):  # not super's, which would take a step
        self.inner, self.factor = inner, factor

    def __call__(self) -> float:
        return self.last_lr

    @property
    def last_lr(self) -> float:
        return float(self.inner()) * self.factor

    @property
    def last_epoch(self) -> int:
        return int(self.inner.last_epoch)

    def get_lr(self) -> float:
        return self.last_lr

    def step(self, *arguments: Any, **named: Any) -> None:
        self.inner.step(*arguments, **named)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.inner.state_dict())

    def set_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.set_state_dict(state_dict)
