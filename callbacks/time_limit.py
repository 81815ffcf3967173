"""Ending a training in time."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

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
        seconds: float = 0.0  # in all
        longest_seconds: float = 0.0  # of an epoch

    clock = staticmethod(time.monotonic)
    _began: float | None = None  # when the training of this process did, while it lasts

    def __init__(self, limit: float | str):
        super().__init__()
        self.limit = _parsed(limit)
        self.reason: str | None = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seconds": self._seconds()}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.reason, self._began = None, self.clock()
        self._epoch_began = self._began

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._note()
        self._epoch_began = self.clock()

    def on_eval_end(self, logs: Logs | None = None) -> None:
        self._look()
        super().on_eval_end(logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._look()  # here, too: Paddle's own fit may not evaluate after it
        super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        self.state.seconds, self._began = self._seconds(), None

    def _look(self) -> None:
        if self._epoch is None:  # an evaluation of its own, outside of training
            return
        self._note()
        if self._epoch - self._before + 1 == self.params["epochs"] or self.model.stop_training:
            return  # no epoch would follow anyway
        spent, next_one = self._seconds(), self.state.longest_seconds
        if agreed(spent + next_one > self.limit):
            self.model.stop_training = True
            self.reason = f"{spent:.0f} s of {self.limit:.0f} s are spent, and an epoch takes {next_one:.0f} s"

    def _note(self) -> None:
        self.state.longest_seconds = max(self.state.longest_seconds, self.clock() - self._epoch_began)

    def _seconds(self) -> float:
        return self.state.seconds + (0.0 if self._began is None else self.clock() - self._began)


def _parsed(limit: float | str) -> float:
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
