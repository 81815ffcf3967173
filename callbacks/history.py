"""The course of a training as plain data, on disk from the first epoch on."""

from __future__ import annotations

import csv
import io
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callbacks.bounded_file import read_bounded
from callbacks.durable import write_file
from callbacks.epoch_logs import EpochLogs, Logs
from callbacks.line_file import LineFile, json_line
from callbacks.paddle_model import learning_rate
from callbacks.processes import is_writer
from callbacks.step_clock import StepClock

_MOST_BYTES = 2**26


class History(EpochLogs):
    """One record an epoch: metrics, rate, time; appended to `path` (JSONL), and as a CSV table beside it.

        model.fit(data, val, epochs=5, callbacks=[History("history.jsonl")])

    A record is `{"epoch": 1, "step": 390, "loss": ..., "acc": ..., "eval_loss": ..., "lr": ..., "seconds": ...,
    "images_per_second": ...}`: epochs count from 1, `step` is the number of batches so far, `lr` the rate of
    the epoch's last step, `seconds` that of the training steps alone, and `images_per_second` leaves out the first step
    of a process, which prepares the others. After a resume the file holds each epoch once.

    path: the JSONL file; None keeps the records in memory only (`history.records`).
    """

    @dataclass
    class State:
        step: int = 0
        seconds: float = 0.0  # of the epoch so far
        timed_images: int = 0
        timed_seconds: float = 0.0
        lr: float = 0.0  # of the last step
        records: list[dict[str, Any]] = field(default_factory=list)

    def __init__(self, path: str | Path | None = None):
        super().__init__()
        self.path = Path(path) if path is not None else None
        self._file = LineFile(self.path) if self.path is not None else None
        self.state, self._clock = self.State(), StepClock()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Those of the present training, or the last one."""
        return list(self.state.records)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._first_step, self._torn = True, False
        if self._file is not None and is_writer():
            self._file.begin(self._lines())

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._clock.begin_epoch()

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        self._clock.begin_step()
        self.state.lr = learning_rate(self.model)

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        seconds, state = self._clock.end_step(), self.state
        state.step += 1
        state.seconds += seconds
        if not self._first_step:
            state.timed_images += int((logs or {}).get("batch_size", 0))
            state.timed_seconds += seconds
        self._first_step = False

    def on_epoch_complete(self, epoch: int, record: Logs) -> None:
        state = self.state
        timing = {
            "seconds": round(state.seconds, 3),
            "images_per_second": round(state.timed_images / max(state.timed_seconds, 1e-9), 1),
        }
        full = {"epoch": epoch + 1, "step": state.step, **record, "lr": state.lr, **timing}
        state.records.append(full)
        state.seconds, state.timed_images, state.timed_seconds = 0.0, 0, 0.0
        if self._file is not None and is_writer():
            try:
                self._append(self._file, full)
            except OSError as error:
                self._torn = True
                why = error.strerror or error
                warnings.warn(f"{self.path}: epoch {epoch + 1} not written: {why}; training goes on", stacklevel=2)

    def _append(self, file: LineFile, record: dict[str, Any]) -> None:
        if self._torn:  # an earlier line is missing
            file.begin(self._lines())
            self._torn = False
        else:
            file.append(json_line(record))
        write_file(file.path.with_suffix(".csv"), _table(self.state.records))

    def _lines(self) -> bytes:
        return b"".join(map(json_line, self.state.records))


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """The records of a `History` file; a last line that a crash cut short is left out.

    Raises ValueError naming the file and line for anything else that isn't a record, and naming the file where it has
    more than 64 MiB, which are a hundred thousand records.
    """
    lines = read_bounded(Path(path), _MOST_BYTES).splitlines(keepends=True)
    records = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: not a record")
        records.append(record)
    return records


def _table(records: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for record in records for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
