"""How long training steps take."""

from __future__ import annotations

import time


class StepClock:
    """Seconds of each step and of waiting for its batch, without what other callbacks do between epochs."""

    def __init__(self) -> None:
        self._last: float | None = None

    def begin_epoch(self) -> None:
        self._last = None  # other callbacks may be busy with the epoch before: it begins with its first step

    def begin_step(self) -> None:
        if self._last is None:
            self._last = time.perf_counter()

    def end_step(self) -> float:
        """Seconds since the end of the step before; of an epoch's first step, since its begin."""
        now = time.perf_counter()
        seconds, self._last = now - (self._last or now), now
        return seconds
