"""Which of the recorded batch-norm statistics are drawn: a page that shows all of them could be of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from callbacks import BatchNormRecords
from callbacks.bn_layout import TENSORS, Layout
from cifar_hapi.batch_norm.inspection import InspectedLayer, Inspection
from cifar_hapi.report.figure import spread

MOST_LAYERS, MOST_MOMENTS, MOST_CHANNELS = 128, 100, 64
_ROOM = 700_000  # bytes of a page for pictures of layers, compressed
_NUMBER = 5  # bytes of a number, compressed and in Base64
_PICTURE, _TRACE = 500, 40  # bytes of a layer's pictures, and of a line, besides numbers
_LINES = 16  # numbers that each moment has in the pictures of a layer, besides those of channels


@dataclass(frozen=True, eq=False)
class Course:
    """What batch norms were at the moments that are drawn.

    records: what is known of them. recorded: whether as the network trained, or only what it ended with. moments: which
    of the T records are drawn. layers: which have pictures of their own. channels: of how many of a layer's channels
    there are lines, at most.
    """

    records: BatchNormRecords
    recorded: bool
    moments: np.ndarray
    layers: tuple[str, ...]
    channels: int

    @property
    def steps(self) -> np.ndarray:
        return self.records.steps[self.moments]

    @property
    def epochs(self) -> np.ndarray:
        return self.records.epochs[self.moments]

    def has(self, quantity: str) -> bool:
        return quantity in self.records.per_channel

    def summary(self, layer: str, quantity: str) -> np.ndarray:
        """[T, 6] of the moments drawn."""
        return self.records.summary(layer, quantity)[self.moments]

    def every_channel(self, layer: str, quantity: str) -> np.ndarray | None:
        """[T, C] of the moments drawn, None where only summaries were recorded."""
        return None if self.records.summarised else self.records[layer, quantity][self.moments]

    def drawn_channels(self, layer: str) -> list[int]:
        """The channels of `layer` that have lines, some of all."""
        count = self.records.channels[layer]
        return [] if self.records.summarised else spread(count, self.channels).tolist()


def course_of(inspection: Inspection) -> Course:
    """What is drawn of an inspection; what the network has at the end, where nothing was recorded."""
    recorded = inspection.records
    records = _present(inspection.layers, inspection.step) if recorded is None else recorded
    moments, channels = _affordable(records)
    named = {each.layer for each in inspection.diagnosis or ()}
    return Course(
        records=records,
        recorded=recorded is not None,
        moments=spread(len(records), moments),
        layers=_chosen(records.layers, named),
        channels=channels,
    )


def _affordable(records: BatchNormRecords) -> tuple[int, int]:
    """How many moments, and how many lines of channels, a page has room for."""
    pictures = len(records.layers) * sum(name in TENSORS for name in records.per_channel)
    room = _ROOM / max(1, pictures) - _PICTURE
    moments = min(len(records), MOST_MOMENTS, max(8, int(room / (2 * _LINES * _NUMBER))))
    left = room - moments * _LINES * _NUMBER
    return moments, min(MOST_CHANNELS, max(0, int(left / (_NUMBER * moments + _TRACE))))


def _chosen(layers: Sequence[str], named: set[str | None]) -> tuple[str, ...]:
    """All layers, or those that have findings, and the first."""
    wanted = sorted(layers, key=lambda layer: layer not in named)[:MOST_LAYERS]
    return tuple(layer for layer in layers if layer in set(wanted))


def _present(layers: Sequence[InspectedLayer], step: int) -> BatchNormRecords:
    """One record of what the layers have."""
    layout = Layout({layer.name: layer.channels for layer in layers}, TENSORS, (), summarised=False)
    values = {
        layer.name: np.stack([layer.tensors.get(name, np.full(layer.channels, math.nan)) for name in TENSORS])
        for layer in layers
    }
    row = layout.row(values, {layer.name: np.empty(0) for layer in layers})
    return BatchNormRecords(layout, np.array([step]), np.array([0]), row[None])
