"""How long a run has taken, also when it is killed."""

from __future__ import annotations

import time
import warnings

from paddle.callbacks import Callback

from callbacks.epoch_logs import Logs
from cifar_hapi.run import Run

_EVERY_SECONDS = 60.0


class RunClock(Callback):
    """Writes the seconds so far into run.json, each minute and after each epoch: so a part that is killed counts."""

    def __init__(self, run: Run):
        super().__init__()
        self._run = run
        self._before, self._begin = run.recorded("seconds", float) or 0.0, time.perf_counter()
        self._written = self._begin

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        if time.perf_counter() - self._written >= _EVERY_SECONDS:
            self._write()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._write()

    def _write(self) -> None:
        self._written = time.perf_counter()
        seconds = self._before + self._written - self._begin
        try:
            self._run.update(seconds=round(seconds, 1))
        except OSError as error:
            why = error.strerror or error
            warnings.warn(f"run {self._run.path}: run.json not written: {why}; training goes on", stacklevel=2)
