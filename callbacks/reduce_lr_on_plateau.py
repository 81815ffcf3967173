"""A lower learning rate where a training gets no better."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from callbacks.epoch_logs import Logs
from callbacks.paddle_model import learning_rate
from callbacks.scaled_rate import scale_rate
from callbacks.watch import MetricWatcher, Mode


class ReduceLROnPlateau(MetricWatcher):
    """Multiplies the rate by `factor` after `patience` epochs in a row without a better `monitor`, as Keras 3's does.

        plateau = ReduceLROnPlateau("eval_loss", factor=0.5, patience=3)
        model.fit(data, val, epochs=50, callbacks=[plateau])
        print(plateau.reductions)  # [(epoch, new rate), ...], epochs from 0

    Under a scheduler, too: it goes on as it would, times what was reduced so far. monitor, mode, min_delta: as in
    `Watch`. cooldown: epochs after a reduction in which patience isn't counted. start_epoch: epochs before it (from 0)
    don't count, such as those of a warm-up. min_lr: no rate is reduced below this. A NaN counts as not better.
    """

    @dataclass
    class State:
        best: float | None = None
        wait: int = 0
        cooldown_left: int = 0
        factors: list[float] = field(default_factory=list)
        reductions: list[tuple[int, float]] = field(default_factory=list)

    def __init__(
        self,
        monitor: str = "eval_loss",
        mode: Mode = "auto",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        start_epoch: int = 0,
        min_lr: float = 0.0,
    ):
        super().__init__(monitor, mode, min_delta)
        if not 0 < factor < 1 or min(patience, cooldown, start_epoch, min_lr) < 0:
            raise ValueError(
                f"ReduceLROnPlateau: factor = {factor}, patience = {patience}, cooldown = {cooldown}, "
                f"start_epoch = {start_epoch}, min_lr = {min_lr}: "
                "the factor must lie between 0 and 1, and the others not be negative"
            )
        self.factor, self.patience, self.cooldown = factor, patience, cooldown
        self.start_epoch, self.min_lr = start_epoch, min_lr

    @property
    def reductions(self) -> list[tuple[int, float]]:
        return list(self.state.reductions)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        scale_rate(self.model, *self.state.factors)  # if resumed: the schedule knows nothing of them

    def on_value(self, epoch: int, value: float | None) -> None:
        state = self.state
        if epoch < self.start_epoch:
            return
        if state.cooldown_left:
            state.cooldown_left -= 1
        if self.improves(value, state.best):
            state.best, state.wait = value, 0
        elif not state.cooldown_left:
            state.wait += 1
            if state.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        rate = learning_rate(self.model)
        if np.float32(rate) <= np.float32(self.min_lr):  # as the optimiser sees them: products are inexact
            return
        factor = max(self.factor, self.min_lr / rate)
        scale_rate(self.model, factor)
        self.state.factors.append(factor)
        self.state.wait, self.state.cooldown_left = 0, self.cooldown
        self.state.reductions.append((epoch, learning_rate(self.model)))
