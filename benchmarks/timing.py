"""Repeated measurements: how they are taken, and what they say."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_WARM_UP_SECONDS = 2.0


@dataclass(frozen=True)
class Spread:
    """The quartiles of `count` measurements."""

    median: float
    lower: float
    upper: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, lower, upper, len(samples))

    @property
    def percent(self) -> float:
        """The interquartile range in percent of the median."""
        return 100 * (self.upper - self.lower) / self.median


@dataclass(frozen=True)
class StraightLine:
    """y = intercept + slope * x; r_squared: the share of y's variance that it explains."""

    intercept: float
    slope: float
    r_squared: float


def straight_line(x: Sequence[float], y: Sequence[float]) -> StraightLine:
    """The least-squares line through at least three points, of which not all have the same x or the same y."""
    if len(x) < 3:
        raise ValueError(f"{len(x)} points: a line goes through any two of them and says nothing")
    slope, intercept = statistics.linear_regression(x, y)
    return StraightLine(intercept, slope, statistics.correlation(x, y) ** 2)


def timed(step: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def warm_up(step: Callable[[], Any]) -> None:
    """At least two calls, and as many as fit into two seconds: the first ones build and choose kernels."""
    durations: list[float] = []
    while len(durations) < 2 or sum(durations) < _WARM_UP_SECONDS:
        durations.append(timed(step))


def take_turn(step: Callable[[], Any], seconds: float, at_least: int = 1) -> list[float]:
    """Seconds of each call: `at_least` of them, and as many as fit into `seconds`.

    A first call is not counted, as others have had the caches since the last turn; but for calls that take a quarter of
    the turn or longer, to which that is nothing.
    """
    first = timed(step)
    durations = [first] if first > seconds / 4 else []
    while len(durations) < at_least or sum(durations) < seconds:
        durations.append(timed(step))
    return durations
