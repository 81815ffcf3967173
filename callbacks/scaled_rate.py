"""A learning rate that is lower than its schedule says."""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakKeyDictionary

from paddle.optimizer.lr import LRScheduler

from callbacks.paddle_model import learning_rate, optimizer, scheduler

# By optimiser: the constant rate that it was given, and the factors since.
_GIVEN: WeakKeyDictionary[Any, tuple[float, list[float]]] = WeakKeyDictionary()


def scale_rate(model: Any, *factors: float) -> None:
    """Multiply the rate of the next step, and of all after it, by `factors`, whatever schedule it follows.

    A checkpoint has the rates of the schedule itself: whoever scales remembers by what, and does so again after a
    resume. The rate is then the same bit for bit, in whichever order several callbacks do so.
    """
    if not factors:
        return
    plan = scheduler(model)
    if plan is None:
        _scale_constant(model, factors)
    elif isinstance(plan, ScaledRate):
        plan.factors.extend(factors)
    else:
        optimizer(model).set_lr_scheduler(ScaledRate(plan, *factors))


class ScaledRate(LRScheduler):
    """The product of `factors` times the rates of `inner`, whose state is its own: a checkpoint sees no difference."""

    def __init__(self, inner: LRScheduler, *factors: float):  # not super's, which would take a step
        self.inner, self.factors = inner, list(factors)

    def __call__(self) -> float:
        return self.last_lr

    @property
    def last_lr(self) -> float:
        return float(self.inner()) * _product(self.factors)

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

    set_dict = set_state_dict  # Paddle's other name for it


def _scale_constant(model: Any, factors: tuple[float, ...]) -> None:
    now = learning_rate(model)
    given, earlier = _GIVEN.get(optimizer(model), (now, []))
    if given * _product(earlier) != now:  # somebody has set another rate since
        given, earlier = now, []
    _GIVEN[optimizer(model)] = given, [*earlier, *factors]
    optimizer(model).set_lr(given * _product([*earlier, *factors]))


def _product(factors: list[float]) -> float:
    return math.prod(sorted(factors))  # products of the same numbers in another order can differ in the last bit
