"""Stopping at the first loss that is no number."""

from __future__ import annotations

import math

from paddle.callbacks import Callback

from callbacks.epoch_logs import Logs, plain_numbers
from callbacks.paddle_model import learning_rate


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the text says at which step, at which rate, and after which loss."""


class TerminateOnNaN(Callback):
    """Raises NonFiniteLoss at the first step, or evaluation between steps, whose loss is NaN or infinite."""

    _step = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._step = 0
        self._last_finite: float | None = None

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        self._rate = learning_rate(self.model)

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        self._step += 1
        metrics = plain_numbers(logs)
        loss = float(metrics["batch_loss"] if "batch_loss" in metrics else metrics["loss"])
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss is {loss} at step {self._step}, learning rate {self._rate:.4g}, "
                f"last finite loss {self._last_finite}; try a lower rate or a longer warm-up"
            )
        self._last_finite = loss

    def on_eval_end(self, logs: Logs | None = None) -> None:
        loss = plain_numbers(logs).get("loss", 0.0)
        if self._step and not math.isfinite(loss):
            raise NonFiniteLoss(f"the loss of the evaluation after step {self._step} is {loss}; try a lower rate")
