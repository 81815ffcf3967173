"""Stopping at the first loss that is no number."""

from __future__ import annotations

import math

import numpy as np
from paddle.callbacks import Callback

from .epoch_logs import Logs
from .paddle_model import learning_rate


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the text says at which step, at which rate, and after which loss."""


class TerminateOnNaN(Callback):
    """Raises NonFiniteLoss at the first step whose loss is NaN or infinite, before anything more is spent on it."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._step = 0
        self._last_finite: float | None = None

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        self._rate = learning_rate(self.model)

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        self._step += 1
        logs = logs or {}
        loss = float(np.sum(logs.get("batch_loss", logs.get("loss", 0.0))))
        if not math.isfinite(loss):
            last = "none before it was finite" if self._last_finite is None else f"the last finite loss was {self._last_finite:.4g}"
            raise NonFiniteLoss(
                f"the loss is {loss} at step {self._step}, learning rate {self._rate:.4g}; {last}: try a lower rate or a longer warm-up"
            )
        self._last_finite = loss
