"""What some rules look at that a diagnosis may have to do without."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cifar_hapi.batch_norm.observation import Inputs, Observation
from cifar_hapi.batch_norm.rules import thresholds


@dataclass(frozen=True)
class Need:
    """what: as an argument of `diagnose` or in a word. is_met: whether an observation has it."""

    what: str
    is_met: Callable[[Observation], bool]


def _enough(inputs: Iterable[Inputs]) -> bool:
    """Whether each layer was given what its statistics can be told from."""
    return all(
        each.images >= thresholds.IMAGES_NEEDED and each.images * each.values >= thresholds.VALUES_NEEDED
        for each in inputs
    )


_ENOUGH = f"enough (at least {thresholds.IMAGES_NEEDED}, with {thresholds.VALUES_NEEDED} values a channel)"

IMAGES = Need(f"images {_ENOUGH}", lambda seen: _enough(layer.trained for layer in seen.layers))
TEST_IMAGES = Need(f"test images {_ENOUGH}", lambda seen: seen.test is None or _enough(seen.test.inputs.values()))
LABELS = Need("labels", lambda seen: seen.by_running is not None)
TEST_DATA = Need("test_data", lambda seen: seen.test is not None)
PROCESSES = Need("processes", lambda seen: bool(seen.processes))
BATCH_SIZE = Need("training.batch_size", lambda seen: seen.training.batch_size is not None)
EPOCH_SIZE = Need("training.images", lambda seen: seen.training.last_batch is not None)
STEPS = Need("training.steps", lambda seen: seen.training.steps is not None)
OPTIMISER = Need("optimiser", lambda seen: any(layer.decay is not None for layer in seen.layers))
RELU = Need("ReLU layer behind", lambda seen: any(layer.positive is not None for layer in seen.layers))
