"""What a step comes to over all processes, of which each has seen its share of the batch."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_hapi.distributed import ranks
from cifar_hapi.metrics import counts, set_counts

_ENDING = [int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass(frozen=True)
class Step:
    """images: of the whole batch. losses: means over them. ending: by which signal a process is told to end, or 0."""

    images: int
    losses: list[float]
    ending: int


def over_all(images: int, losses: Sequence[float], metrics: Sequence[Any], before: Sequence[Any], ending: int) -> Step:
    """The step of all processes, by one sum; `metrics` have counted `before`, and since then their share of this step.

    images: of the share. losses: means over it. before: of each metric, what `counts` gave. Afterwards each metric has
    counted the whole batch; what it counts must add up, as numbers of images, or sums over them, do. ending: by which
    signal this process is told to end, or 0.
    """
    seen = [number for metric in metrics for number in _flat(counts(metric))]
    flags = [float(ending == each) for each in _ENDING]
    total = iter(ranks.summed([images, *(loss * images for loss in losses), *flags, *seen]))
    everywhere = round(next(total))
    means = [next(total) / everywhere for _ in losses]
    told = [each for each in _ENDING if next(total)]
    for metric, earlier in zip(metrics, before, strict=True):
        set_counts(metric, _plus(earlier, total))
    return Step(everywhere, means, told[0] if told else 0)


def _flat(value: Any) -> Iterator[float]:
    """The numbers in nested dictionaries and lists, in order."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _flat(each)
    else:
        yield value


def _plus(value: Any, more: Iterator[float]) -> Any:
    """`value` with the next of `more` added to each of its numbers; whole numbers stay whole."""
    if isinstance(value, dict):
        return {key: _plus(each, more) for key, each in value.items()}
    if isinstance(value, list):
        return [_plus(each, more) for each in value]
    total = value + next(more)
    return int(total) if isinstance(value, int) and float(total).is_integer() else total
