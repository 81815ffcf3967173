"""Recorded batch-norm statistics as NumPy arrays."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.bn_file import read_header, read_records
from callbacks.bn_layout import SUMMARY, Layout, summary


def load_bn_stats(path: str | Path) -> BatchNormRecords:
    """All records of a file that `BatchNormStats` has written; a last line that a crash cut short is left out.

    Raises OSError where the file cannot be read, and ValueError naming file and line for anything that isn't a record.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name the file, of a run {path / 'bn' / 'stats.jsonl'}")
    with path.open("rb") as file:
        layout = read_header(file, path)
        records = list(read_records(file, path, layout))
    values = np.stack([record.values for record in records]) if records else np.empty((0, layout.width))
    steps, epochs = ([getattr(record, name) for record in records] for name in ("step", "epoch"))
    return BatchNormRecords(layout, np.array(steps, np.int64), np.array(epochs, np.int64), values.astype(np.float32))


class BatchNormRecords:
    """What batch-norm layers were at T moments of a training.

    steps, epochs: int64 [T]; how many batches the training had had, and the epoch that the last of them was in, counted
    from 1, 0 before the first. layers: their names in the network's order. channels: how many each has. quantities:
    what there is of each layer, such as "running_mean"; `per_channel` are those with a number for each channel, `norms`
    those with one for the layer. summarised: whether the former were recorded as the six of `SUMMARY` only.
    """

    SUMMARY = SUMMARY

    def __init__(self, layout: Layout, steps: np.ndarray, epochs: np.ndarray, values: np.ndarray):
        self.steps, self.epochs = steps, epochs
        self.layers, self.channels = tuple(layout.layers), dict(layout.layers)
        self.per_channel, self.norms, self.quantities = layout.per_channel, layout.norms, layout.quantities
        self.summarised = layout.summarised
        self._layout, self._values = layout, values

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        kind = "summaries" if self.summarised else "all channels"
        return f"BatchNormRecords({len(self)} records of {len(self.layers)} layers, {kind})"

    def __getitem__(self, key: tuple[str, str]) -> np.ndarray:
        """`records[layer, quantity]`, float32: [T, C], or [T, 6] if `summarised`; [T] of one of the `norms`.

        Raises KeyError, saying what there is, for a name that isn't there.
        """
        layer, quantity = key
        values = self._values[:, self._layout.place(layer, quantity)]
        return values[:, 0] if quantity in self.norms else values

    def summary(self, layer: str, quantity: str) -> np.ndarray:
        """`SUMMARY` over the channels, float32 [T, 6], however they were recorded; not of the `norms`."""
        if quantity in self.norms:
            raise KeyError(
                f"{quantity!r} is one number for the layer; per channel there are {', '.join(self.per_channel)}"
            )
        values = self[layer, quantity]
        return values if self.summarised else summary(values)

    def over_layers(self, quantity: str, column: str = "median") -> np.ndarray:
        """One number for each layer and moment, float32 [layers, T]: a column of `SUMMARY`, or what `norms` are."""
        if quantity in self.norms:
            return np.stack([self[layer, quantity] for layer in self.layers])
        if column not in SUMMARY:
            raise KeyError(f"no column {column!r}; there are: {', '.join(SUMMARY)}")
        place = SUMMARY.index(column)
        return np.stack([self.summary(layer, quantity)[:, place] for layer in self.layers])

    def at_epoch(self, epoch: int) -> int:
        """Where along T the last record of an epoch is; 0: before the first step. Raises KeyError if there is none."""
        places = np.flatnonzero(self.epochs == epoch)
        if not len(places):
            raise KeyError(f"no record in epoch {epoch}; there are some in {sorted(set(self.epochs.tolist()))}")
        return int(places[-1])

    def rows(self) -> Iterator[dict[str, Any]]:
        """A tidy table: one number a row, with `step`, `epoch`, `layer`, `quantity`, `part` and `value`.

        part: the channel, the column of `SUMMARY`, or None where a quantity is one number for the layer.
        """
        for step, epoch, record in zip(self.steps.tolist(), self.epochs.tolist(), self._values, strict=True):
            for layer, quantity, part, place in self._parts():
                names = {"step": step, "epoch": epoch, "layer": layer, "quantity": quantity, "part": part}
                yield {**names, "value": float(record[place])}

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`. Raises ImportError without pandas, which is not installed by itself."""
        try:
            pandas = importlib.import_module("pandas")
        except ModuleNotFoundError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        layers, quantities, parts, _ = zip(*self._parts(), strict=True)
        names = {"layer": layers, "quantity": quantities, "part": parts}
        moments = {"step": self.steps, "epoch": self.epochs}
        width = len(parts)
        return pandas.DataFrame(
            {key: np.repeat(each, width) for key, each in moments.items()}
            | {key: np.tile(np.array(each, object), len(self)) for key, each in names.items()}
            | {"value": self._values.ravel()}
        )

    def _parts(self) -> Iterator[tuple[str, str, Any, int]]:
        """Layer, quantity, part and place of each number of a record."""
        for layer, quantity, place in self._layout.places():
            size = place.stop - place.start
            parts = [None] if quantity in self.norms else SUMMARY if self.summarised else range(size)
            yield from ((layer, quantity, part, place.start + offset) for offset, part in enumerate(parts))
