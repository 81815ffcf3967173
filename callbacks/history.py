"""The course of a training as plain data, on disk from the first epoch on."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

from callbacks.durable import write_file
from callbacks.epoch_logs import EpochLogs, Logs
from callbacks.paddle_model import learning_rate


class History(EpochLogs):
    """One record an epoch: metrics, rate, time; appended to `path` (JSONL), and as a CSV table beside it.

    A record is `{"epoch": 1, "step": 390, "loss": ..., "acc": ..., "eval_loss": ..., "lr": ..., "seconds": ...,
    "images_per_second": ...}`: epochs count from 1, `step` is the number of updates so far, `lr` the rate of
    the epoch's last step, `seconds` and `images_per_second` those of the training steps alone.

    path: the JSONL file; None keeps the records in memory only (`history.records`).
    """

    def __init__(self, path: str | Path | None = None):
        super().__init__()
        self.path = Path(path) if path is not None else None
        self.records: list[dict[str, Any]] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.records = []
        self._step = 0
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("", encoding="utf-8")

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._images = 0
        self._begin: float | None = None
        self._last = 0.0

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        if self._begin is None:  # not at the epoch's begin: other callbacks may be busy with the one before
            self._begin = time.perf_counter()
        self._rate = learning_rate(self.model)

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        self._step += 1
        self._images += int((logs or {}).get("batch_size", 0))
        self._last = time.perf_counter()

    def on_epoch_complete(self, epoch: int, record: Logs) -> None:
        seconds = 0.0 if self._begin is None else self._last - self._begin
        timing = {
            "seconds": round(seconds, 3),
            "images_per_second": round(self._images / max(seconds, 1e-9), 1),
        }
        full = {"epoch": epoch + 1, "step": self._step, **record, "lr": self._rate, **timing}
        self.records.append(full)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(full) + "\n")
            write_file(self.path.with_suffix(".csv"), _table(self.records))


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """The records of a `History` file; a last line that a crash cut short is left out.

    Raises ValueError naming the file and line for anything else that isn't a record.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    records = []
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            break
        try:
            record = json.loads(line)
        except ValueError:
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
