"""Stopping, or going back, at the first loss that is no number."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from callbacks.checkpoint import Checkpoint
from callbacks.epoch_logs import EpochLogs, Logs, plain_numbers
from callbacks.paddle_model import learning_rate
from callbacks.scaled_rate import scale_rate


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the text says at which step, at which rate, and after which loss."""


class TerminateOnNaN(EpochLogs):
    """Raises NonFiniteLoss at the first step, or evaluation between steps, whose loss is NaN or infinite.

        model.fit(data, epochs=5, callbacks=[TerminateOnNaN()])

    With `checkpoint` and `retries` it goes back instead, at most so many times: weights and optimiser become those of
    the newest checkpoint that has numbers only, the rate is multiplied by `factor` for good, and training goes on with
    the data that comes next. A warning tells of each return.
    """

    @dataclass
    class State:
        step: int = 0
        last_finite: float | None = None
        returns: int = 0

    def __init__(self, checkpoint: Checkpoint | None = None, retries: int = 0, factor: float = 0.5):
        super().__init__()
        if retries < 0 or not 0 < factor < 1 or (retries and checkpoint is None):
            raise ValueError(
                f"TerminateOnNaN: retries = {retries}, factor = {factor}: retries need a checkpoint to go back to, "
                "and a factor between 0 and 1"
            )
        self.checkpoint, self.retries, self.factor = checkpoint, retries, factor

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        if self.state.returns:  # resumed: the schedule knows nothing of them
            scale_rate(self.model, self.factor**self.state.returns)

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        self._rate = learning_rate(self.model)

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        state, metrics = self.state, plain_numbers(logs)
        state.step += 1
        loss = float(metrics["batch_loss"] if "batch_loss" in metrics else metrics["loss"])
        if math.isfinite(loss):
            state.last_finite = loss
        else:
            self._give_up_or_go_back(
                f"the loss is {loss} at step {state.step}, learning rate {self._rate:.4g}, "
                f"last finite loss {state.last_finite}"
            )

    def on_eval_end(self, logs: Logs | None = None) -> None:
        super().on_eval_end(logs)
        loss = plain_numbers(logs).get("loss", 0.0)
        if self.training and self.state.step and not math.isfinite(loss):
            self._give_up_or_go_back(f"the loss of the evaluation after step {self.state.step} is {loss}")

    def _give_up_or_go_back(self, what: str) -> None:
        if self.checkpoint is None or self.state.returns >= self.retries:
            returns = f", after {self.state.returns} returns to checkpoints" if self.state.returns else ""
            raise NonFiniteLoss(f"{what}{returns}; try a lower rate or a longer warm-up")
        name = self.checkpoint.roll_back()
        scale_rate(self.model, self.factor)
        self.state.returns += 1
        warnings.warn(f"{what}: back to {name}, at {self.factor} times the rate from here on", stacklevel=2)
