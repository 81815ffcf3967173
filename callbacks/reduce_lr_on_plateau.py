"""A lower learning rate where a training gets no better."""

from __future__ import annotations

from dataclasses import dataclass

from callbacks.epoch_logs import Logs
from callbacks.paddle_model import learning_rate
from callbacks.processes import agreed
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
        scale: float = 1.0  # all reductions so far

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
        if not 0 < factor < 1 or patience < 0 or cooldown < 0:
            raise ValueError(
                f"ReduceLROnPlateau: factor = {factor}, patience = {patience}, cooldown = {cooldown}: "
                "the factor must lie between 0 and 1, and the others not be negative"
            )
        self.factor, self.patience, self.cooldown = factor, patience, cooldown
        self.start_epoch, self.min_lr = start_epoch, min_lr
        self.reductions: list[tuple[int, float]] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.reductions = []
        if self.state.scale != 1:  # resumed: the schedule knows nothing of it
            scale_rate(self.model, self.state.scale)

    def on_value(self, epoch: int, value: float | None) -> None:
        state = self.state
        if epoch < self.start_epoch:
            return
        if state.cooldown_left:
            state.cooldown_left -= 1
            state.wait = 0
        if value is not None and self.watch.better(value, state.best):
            state.best, state.wait = value, 0
        elif not state.cooldown_left:
            state.wait += 1
            if agreed(state.wait >= self.patience):
                self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        rate = learning_rate(self.model)
        if rate <= self.min_lr:
            return
        factor = max(self.factor, self.min_lr / rate)
        scale_rate(self.model, factor)
        self.state.scale *= factor
        self.state.wait, self.state.cooldown_left = 0, self.cooldown
        self.reductions.append((epoch, learning_rate(self.model)))
