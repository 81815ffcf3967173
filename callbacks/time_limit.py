"""Ending a training in time."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from callbacks.epoch_logs import EpochLogs, Logs
from callbacks.processes import agreed

_UNITS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "d": 86400}


class TimeLimit(EpochLogs):
    """Ends training after the epoch whose successor would not end within `limit`.

        model.fit(data, epochs=1000, callbacks=[TimeLimit("20 min")])

    limit: seconds, or text such as "90 s", "20 min", "1.5 h", "2 d". The next epoch is taken to last as long as the
    longest so far, its evaluation included, so that only a first epoch can exceed the limit. Parts of a training that
    was resumed count together. After `fit`, `reason` is a sentence if time ran out, else None.
    """

    @dataclass
    class State:
        spent: float = 0.0  # seconds, of complete epochs
        longest: float = 0.0

    clock = staticmethod(time.monotonic)

    def __init__(self, limit: float | str):
        super().__init__()
        self.limit = _seconds(limit)
        self.reason: str | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.reason, self._last = None, self.clock()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if self._epoch is not None:  # Paddle's own fit, which may evaluate after this
            self._look(self.clock() - self._last)

    def on_epoch_complete(self, epoch: int, record: Logs) -> None:
        now = self.clock()
        seconds, self._last = now - self._last, now
        self.state.spent += seconds
        self.state.longest = max(self.state.longest, seconds)
        self._look(0.0)

    def _look(self, running: float) -> None:
        spent, next_one = self.state.spent + running, max(self.state.longest, running)
        if self.reason is None and agreed(spent + next_one > self.limit):
            self.model.stop_training = True
            self.reason = f"{spent:.0f} s of {self.limit:.0f} s are spent, and an epoch takes {next_one:.0f} s"


def _seconds(limit: float | str) -> float:
    if isinstance(limit, int | float):
        seconds = float(limit)
    else:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", limit)
        if not found or found[2] not in _UNITS:
            raise ValueError(f'TimeLimit: {limit!r}: expected seconds, or text such as "90 s", "20 min", "1.5 h"')
        seconds = float(found[1]) * _UNITS[found[2]]
    if not seconds > 0:
        raise ValueError(f"TimeLimit: {limit!r}: must be more than nothing")
    return seconds
