"""Stopping, or going back, at the first loss that is no number."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

from callbacks.checkpoint import Checkpoint
from callbacks.epoch_logs import EpochLogs, Logs, batch_loss, plain_numbers
from callbacks.paddle_model import learning_rate, optimizer
from callbacks.processes import agreed
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
        factors: list[float] = field(default_factory=list)  # of the rate, one for each return

    def __init__(self, checkpoint: Checkpoint | None = None, retries: int = 0, factor: float = 0.5):
        super().__init__()
        if retries < 0 or not 0 < factor < 1 or (retries and checkpoint is None):
            raise ValueError(
                f"TerminateOnNaN: retries = {retries}, factor = {factor}: retries need a checkpoint to go back to, "
                "and a factor between 0 and 1"
            )
        self.checkpoint, self.retries, self.factor = checkpoint, retries, factor
        self.state = self.State()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        scale_rate(self.model, *self.state.factors)  # if resumed: the schedule knows nothing of them

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        self._rate = learning_rate(self.model)

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        state, loss = self.state, batch_loss(logs)
        state.step += 1
        if self._is_bad(loss):
            self._give_up_or_go_back(
                f"the loss is {loss} at step {state.step}, learning rate {self._rate:.4g}, "
                f"last finite loss {state.last_finite}"
            )
        elif math.isfinite(loss):
            state.last_finite = loss

    def on_eval_end(self, logs: Logs | None = None) -> None:
        super().on_eval_end(logs)
        loss = plain_numbers(logs).get("loss", 0.0)
        if self.state.step and self._is_bad(loss):
            self._give_up_or_go_back(f"the loss of the evaluation after step {self.state.step} is {loss}")

    def _is_bad(self, loss: float) -> bool:
        bad = not math.isfinite(loss)
        return agreed(bad) if self.retries and self.training else bad  # processes must go back together

    def _give_up_or_go_back(self, what: str) -> None:
        factors = self.state.factors
        if self.checkpoint is None or len(factors) >= self.retries or not self.training:
            returns = f", after {len(factors)} of {self.retries} returns to checkpoints" if factors else ""
            raise NonFiniteLoss(f"{what}{returns}; try a lower rate or a longer warm-up")
        name = self.checkpoint.roll_back()
        optimizer(self.model).clear_grad()  # where gradients are being accumulated, they are bad, too
        scale_rate(self.model, self.factor)
        factors.append(self.factor)
        warnings.warn(
            f"{what}: back to {name}, at {self.factor} times the rate, {learning_rate(self.model):.4g} now "
            f"({len(factors)} of {self.retries} returns)",
            stacklevel=2,
        )
