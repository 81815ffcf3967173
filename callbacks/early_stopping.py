"""Ending a training that gets no better."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from callbacks.epoch_logs import Logs
from callbacks.paddle_model import set_weights, weights
from callbacks.processes import agreed
from callbacks.watch import MetricWatcher, Mode


class EarlyStopping(MetricWatcher):
    """Ends training after `patience` epochs in a row without a better `monitor`. Decides as Keras 3's does.

        stopping = EarlyStopping("eval_loss", patience=5, restore_best=True)
        model.fit(data, val, epochs=100, callbacks=[stopping])
        print(stopping.reason)

    monitor, mode, min_delta: as in `Watch`. patience: 0 stops at the first epoch that isn't better. baseline: patience
    starts anew only with values better than this, too. start_epoch: epochs before it (from 0) don't count.
    restore_best: end with the weights and batch-norm statistics of the best epoch, whether stopped early or not.
    A NaN is never the best and counts as not better.

    After `fit`: `state.best`, `state.best_epoch` (from 0), `stopped_epoch` (from 0; None if not stopped), and `reason`,
    a sentence or None. Used again, it starts afresh.
    """

    @dataclass
    class State:
        best: float | None = None
        best_epoch: int | None = None
        wait: int = 0
        weights: dict[str, np.ndarray] = field(default_factory=dict)

    def __init__(
        self,
        monitor: str = "eval_loss",
        mode: Mode = "auto",
        patience: int = 0,
        min_delta: float = 0.0,
        baseline: float | None = None,
        start_epoch: int = 0,
        restore_best: bool = False,
    ):
        super().__init__(monitor, mode, min_delta)
        if patience < 0 or start_epoch < 0:
            raise ValueError(f"EarlyStopping: patience = {patience}, start_epoch = {start_epoch}: no negative numbers")
        self.patience, self.baseline = patience, baseline
        self.start_epoch, self.restore_best = start_epoch, restore_best
        self.stopped_epoch: int | None = None
        self.reason: str | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.stopped_epoch, self.reason = None, None
        self._evaluated: dict[str, np.ndarray] = {}

    def on_eval_begin(self, logs: Logs | None = None) -> None:
        if self.restore_best and self._epoch is not None:
            self._evaluated = weights(self.model)  # averages, where a callback before this one has put them there

    def on_value(self, epoch: int, value: float | None) -> None:
        state = self.state
        if epoch < self.start_epoch:
            return
        state.wait += 1
        if value is not None and self.watch.better(value, state.best):
            state.best, state.best_epoch = value, epoch
            if self.restore_best:
                state.weights = self._evaluated if self.watch.needs_evaluation else weights(self.model)
            if self.baseline is None or self.watch.better(value, self.baseline):
                state.wait = 0
                return
        if agreed(state.wait >= self.patience and epoch > 0):
            self._stop(epoch)

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        if self.state.weights:
            set_weights(self.model, self.state.weights)

    def _stop(self, epoch: int) -> None:
        self.stopped_epoch, self.model.stop_training = epoch, True
        state, times = self.state, "1 epoch" if self.state.wait == 1 else f"{self.state.wait} epochs"
        known = state.best is not None and state.best_epoch is not None
        best = f"best {state.best:.4f} after epoch {state.best_epoch + 1}" if known else "it was never a number"
        self.reason = f"{self.watch.monitor} has not got better for {times}; {best}"
