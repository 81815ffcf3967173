"""The file of batch-norm statistics: JSON, a line a record, only ever appended to.

The first line says what the records hold:

    {"format": "batch-norm statistics", "version": 1, "channels": "summary",
     "layers": {"stem.1": 64, "layer1.0.norm": 64, ...}, "per_channel": ["running_mean", ...],
     "norms": ["running_mean_change", ...], "summary": ["min", "q1", "median", "q3", "max", "norm"]}

`layers`: the channels of each. Every further line is a record:

    {"step": 390, "epoch": 1, "values": "mpmZPgAAwH8..."}

step: how many batches the training had had. epoch: in which one, counted from 1; 0 for the record before the first
step. values: little-endian float32 in Base64, so that NaN and infinity stay what they are, bit for bit: layer after
layer; of each layer first the quantities `per_channel`, each as C numbers (channels: "all") or as the six of `summary`,
then one number for each of the `norms`. In Python:

    np.frombuffer(base64.b64decode(json.loads(line)["values"]), "<f4")
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from callbacks.bn_layout import CHANGES, GRADIENTS, PROBED, SUMMARY, TENSORS, Layout
from callbacks.line_file import LineFile, json_line

_MOST_HEADER = 2**20  # bytes; ten thousand layers have fewer
_PER_CHANNEL, _NORMS = (*TENSORS, *PROBED), (*CHANGES, *GRADIENTS)
_Count = Annotated[int, Field(ge=0, lt=2**63)]


@checked_dataclass(config=ConfigDict(strict=True))
class _Header:
    format: Literal["batch-norm statistics"]
    version: Literal[1]
    channels: Literal["summary", "all"]
    layers: Annotated[dict[str, Annotated[int, Field(ge=1, lt=2**31)]], Field(min_length=1)]
    per_channel: list[str]
    norms: list[str]


@checked_dataclass(config=ConfigDict(strict=True))
class _Line:
    step: _Count
    epoch: _Count
    values: str


@dataclass(frozen=True)
class Record:
    """One line; `values` is float32 [width], `end` the place in the file behind it, in bytes."""

    step: int
    epoch: int
    values: np.ndarray
    end: int


class StatsFile:
    """Writes records of `layout` to `path`, each synced to the disk before the training goes on."""

    def __init__(self, path: Path, layout: Layout):
        self.path, self.layout, self._lines = path, layout, LineFile(path)

    def begin(self) -> None:
        """A file without records, in the place of any that was there."""
        self._lines.begin(format_header(self.layout))

    def go_on(self, records: int) -> int:
        """Cut off all but the first `records`; how many there are, fewer if the file had fewer.

        Raises ValueError for a file of something else, and OSError where there is none.
        """
        with self.path.open("rb") as file:
            if read_header(file, self.path) != self.layout:
                raise ValueError(f"{self.path}, line 1: of other layers or other settings")
            end, found = file.tell(), 0
            for record in read_records(file, self.path, self.layout, most=records):
                end, found = record.end, found + 1
        self._lines.cut(end)
        return found

    def append(self, step: int, epoch: int, values: np.ndarray) -> None:
        """Write one record. Raises OSError; the next one then takes the place of what was written of it."""
        line = format_record(step, epoch, values)
        self._lines.append(line, synced=True)  # a checkpoint that counts this record must not outlive it


def format_header(layout: Layout) -> bytes:
    channels = {"channels": "summary", "summary": SUMMARY} if layout.summarised else {"channels": "all"}
    names = {"layers": layout.layers, "per_channel": layout.per_channel, "norms": layout.norms}
    return json_line({"format": "batch-norm statistics", "version": 1, **channels, **names})


def format_record(step: int, epoch: int, values: np.ndarray) -> bytes:
    text = base64.b64encode(values.astype("<f4").tobytes()).decode()
    return json_line({"step": step, "epoch": epoch, "values": text})


def read_header(file: BinaryIO, path: Path) -> Layout:
    """The first line of `file`. Raises ValueError, naming `path`, unless it is one of ours."""
    line = file.readline(_MOST_HEADER)
    try:
        if not line.endswith(b"\n"):
            raise ValueError("the line has no end" if line else "the file is empty")
        header = TypeAdapter(_Header).validate_json(line)
        if not all(name.isprintable() for name in header.layers):
            raise ValueError("the name of a layer is not printable")
        per_channel, norms = (_known(header.per_channel, _PER_CHANNEL), _known(header.norms, _NORMS))
        return Layout(header.layers, per_channel, norms, header.channels == "summary")
    except ValueError as error:
        why = _complaint(error) if isinstance(error, ValidationError) else str(error)
        raise ValueError(f"{path}, line 1: no header of batch-norm statistics: {why}") from None


def read_records(file: BinaryIO, path: Path, layout: Layout, most: int | None = None) -> Iterator[Record]:
    """The records from where `file` stands, right after the header, `most` at most; a last line cut short is left out.

    Raises ValueError naming `path` and the line for anything else that isn't a record, or not later than the last.
    """
    longest = len(format_record(2**63, 2**63, np.zeros(layout.width)))
    step, epoch, number = -1, 0, 1
    while most is None or number <= most:
        number += 1
        line = file.readline(longest + 1)
        if not line.endswith(b"\n") and len(line) <= longest:
            return
        try:
            found = _LINE.validate_json(line)
            values = base64.b64decode(found.values, validate=True)
        except ValueError:
            raise ValueError(f"{path}, line {number}: not a record") from None
        if len(values) != 4 * layout.width:
            raise ValueError(f"{path}, line {number}: {len(values)} bytes of values, not {4 * layout.width}")
        if found.step <= step or found.epoch < epoch:
            raise ValueError(f"{path}, line {number}: step {found.step} comes after step {step}")
        step, epoch = found.step, found.epoch
        yield Record(step, epoch, np.frombuffer(values, "<f4"), file.tell())


_LINE = TypeAdapter(_Line)


def _known(names: list[str], known: tuple[str, ...]) -> tuple[str, ...]:
    if len({*names} & {*known}) != len(names):
        raise ValueError(f"quantities that are unknown or named twice; there can be {', '.join(known)}")
    return tuple(names)


def _complaint(error: ValidationError) -> str:
    """What is wrong first, without what was found there, which may be anything."""
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join([*map(str, first["loc"][:1]), str(first["msg"]).lower()])
