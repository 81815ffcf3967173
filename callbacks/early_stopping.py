"""Ending a training that gets no better."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from callbacks.epoch_logs import Logs
from callbacks.paddle_model import set_weights, weights
from callbacks.watch import MetricWatcher, Mode


class EarlyStopping(MetricWatcher):
    """Ends training after `patience` epochs in a row without a better `monitor`. Decides as Keras 3's does.

        stopping = EarlyStopping("eval_loss", patience=5, restore_best=True)
        model.fit(data, val, epochs=100, callbacks=[stopping])
        print(stopping.reason)

    monitor, mode, min_delta: as in `Watch`. patience: 0 stops at the first epoch that isn't better. baseline: patience
    starts anew only with values better than this, too; still, no epoch that is the best so far ends training.
    start_epoch: epochs before it (from 0) don't count. restore_best: end with the weights and batch-norm statistics of
    the best epoch, whether stopped early or not. A NaN is never the best and counts as not better.

    After `fit`: `best`, `best_epoch` (from 0), `stopped_epoch` (from 0; None if not stopped), and `reason`, a sentence
    or None. Used again, it starts afresh.
    """

    @dataclass
    class State:
        best: float | None = None
        best_epoch: int | None = None
        wait: int = 0
        stopped_epoch: int | None = None
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

    @property
    def best(self) -> float | None:
        return self.state.best

    @property
    def best_epoch(self) -> int | None:
        return self.state.best_epoch

    @property
    def stopped_epoch(self) -> int | None:
        return self.state.stopped_epoch

    @property
    def reason(self) -> str | None:
        state = self.state
        if state.stopped_epoch is None:
            return None
        times = "1 epoch" if state.wait == 1 else f"{state.wait} epochs"
        known = state.best is not None and state.best_epoch is not None
        best = f"best {state.best:.4f} after epoch {state.best_epoch + 1}" if known else "it was never a number"
        than = "" if self.baseline is None else f" than the best and the baseline of {self.baseline:g}"
        return f"{self.watch.monitor} has not got better{than} for {times}; {best}"

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.state.stopped_epoch = None  # even if resumed: training goes on
        self._evaluated: dict[str, np.ndarray] = {}

    def on_eval_begin(self, logs: Logs | None = None) -> None:
        if self.restore_best and self._epoch is not None:
            self._evaluated = weights(self.model)  # averages, where a callback before this one has put them there

    def on_value(self, epoch: int, value: float | None) -> None:
        state = self.state
        if epoch < self.start_epoch:
            return
        state.wait += 1
        if self.improves(value, state.best):
            state.best, state.best_epoch = value, epoch
            if self.restore_best:
                state.weights = self._evaluated if self.watch.needs_evaluation else weights(self.model)
            if self.baseline is None or self.improves(value, self.baseline):
                state.wait = 0
        elif state.wait >= self.patience and epoch > 0:
            state.stopped_epoch, self.model.stop_training = epoch, True

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        if self.state.weights:
            set_weights(self.model, self.state.weights)
