"""Saving weights while a model trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from callbacks.checkpoint_folder import CheckpointFolder
from callbacks.epoch_logs import EpochLogs, Logs
from callbacks.paddle_model import weights


class Checkpoint(EpochLogs):
    """Weights and batch-norm statistics as safetensors after epochs, the last and the best always among them.

    folder: where (see checkpoint_folder.py). every_epochs: how often, and always after the last epoch. keep: how many
    of the newest remain, besides `best`. monitor, mode: the metric that tells the best, and whether the `max` or `min`
    of it; None, or epochs without that metric, tell no best. A NaN is never the best.
    """

    def __init__(
        self,
        folder: str | Path,
        every_epochs: int = 1,
        keep: int = 1,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
    ):
        super().__init__()
        if every_epochs < 1 or keep < 1 or mode not in ("max", "min"):
            raise ValueError(f"every_epochs={every_epochs}, keep={keep}, mode={mode!r}: at least 1, 1, and max or min")
        self.folder = CheckpointFolder(folder)
        self.every_epochs, self.keep, self.monitor, self.mode = every_epochs, keep, monitor, mode

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.best: float | None = None
        self._step = 0

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        self._step += 1

    def on_epoch_complete(self, epoch: int, record: Logs) -> None:
        last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
        value = record.get(self.monitor) if self.monitor else None
        better = self._is_better(value)
        if not (last or better or (epoch + 1) % self.every_epochs == 0):
            return
        state = {"epoch": epoch + 1, "step": self._step, "metrics": record}
        name = self.folder.write(self._step, weights(self.model), state)
        self.folder.point("latest", name)
        if better:
            self.best = value
            self.folder.point("best", name)
        self.folder.prune(self.keep)

    def _is_better(self, value: float | None) -> bool:
        if value is None or math.isnan(value):
            return False
        return self.best is None or (value > self.best if self.mode == "max" else value < self.best)
