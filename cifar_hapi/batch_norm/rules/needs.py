"""What some rules look at that a diagnosis may have to do without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cifar_hapi.batch_norm.observation import Observation


@dataclass(frozen=True)
class Need:
    """what: as an argument of `diagnose` or in a word. is_met: whether an observation has it."""

    what: str
    is_met: Callable[[Observation], bool]


LABELS = Need("labels", lambda seen: seen.by_running is not None)
TEST_DATA = Need("test_data", lambda seen: seen.test is not None)
PROCESSES = Need("processes", lambda seen: bool(seen.processes))
BATCH_SIZE = Need("training.batch_size", lambda seen: seen.training.batch_size is not None)
EPOCH_SIZE = Need("training.images", lambda seen: seen.training.last_batch is not None)
STEPS = Need("training.steps", lambda seen: seen.training.steps is not None)
OPTIMISER = Need("optimiser", lambda seen: any(layer.decay is not None for layer in seen.layers))
RELU = Need("ReLU layer behind", lambda seen: any(layer.positive is not None for layer in seen.layers))
