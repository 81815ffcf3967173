"""The course of a training within its epochs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from callbacks.checkpoint_folder import CheckpointError
from callbacks.epoch_logs import EpochLogs, Logs, batch_loss
from callbacks.history import read_history
from callbacks.line_file import LineFile, json_line
from callbacks.paddle_model import learning_rate
from callbacks.processes import is_writer
from callbacks.step_clock import StepClock


class StepHistory(EpochLogs):
    """One record every few steps: mean loss, rate, time; appended to `path` (JSONL), which `read_history` reads.

        model.fit(data, val, epochs=5, callbacks=[StepHistory("steps.jsonl")])

    A record is `{"step": 100, "epoch": 0.256, "loss": 1.83, "lr": 0.1, "seconds": 2.31}`: `step` is the number of
    batches so far, `epoch` that of epochs with the part of the present one (left out where the data has no length),
    `loss` the mean of the batches since the last record, `lr` the rate of the last of them, `seconds` what they took.

    every_steps: how many a record has, but for the last one of an epoch, which has the rest. A file of an earlier
    training is replaced. After a resume it holds each step once; the step count goes on from the checkpoint's. Records
    that cannot be written are left out, and the first of them is warned of. Of several processes the first one writes.
    Raises CheckpointError where the file to go on with has something else in it.
    """

    @dataclass
    class State:
        step: Annotated[int, Field(ge=0, strict=True)] = 0
        batches: Annotated[int, Field(ge=0, strict=True)] = 0  # since the last record, as what follows
        loss: float = 0.0  # summed
        seconds: float = 0.0

    def __init__(self, path: str | Path, every_steps: int = 5):
        super().__init__()
        if type(every_steps) is not int or every_steps < 1:
            raise ValueError(f"StepHistory: every_steps = {every_steps!r}: must be a whole number, at least 1")
        self.path, self.every_steps, self._clock = Path(path), every_steps, StepClock()
        self._file = LineFile(self.path)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        resumed = self._resumed is not None
        super().on_train_begin(logs)
        if not resumed:  # perhaps on a checkpoint of a training that did not record its steps
            self.state.step, _ = self._course_before()
        self._failed, self._rate = False, learning_rate(self.model)
        self._batch = (self.params.get("initial_step") or 0) - 1
        if is_writer():
            self._file.begin(b"".join(map(json_line, self._earlier() if resumed else [])))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._clock.begin_epoch()

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        self._clock.begin_step()
        self._rate = learning_rate(self.model)

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        state, steps = self.state, self.params.get("steps")
        state.seconds += self._clock.end_step()
        state.step += 1
        state.batches += 1
        state.loss += batch_loss(logs)
        self._batch = step
        if state.batches >= self.every_steps or step + 1 == steps:
            self._write()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.state.batches:  # the epoch was shorter than could be told
            self._write()
        super().on_epoch_end(epoch, logs)

    def _write(self) -> None:
        state, steps = self.state, self.params.get("steps")
        record = {"step": state.step}
        record |= {"epoch": round((self._epoch or 0) + (self._batch + 1) / steps, 6)} if steps else {}
        record |= {"loss": state.loss / state.batches, "lr": self._rate, "seconds": round(state.seconds, 4)}
        state.batches, state.loss, state.seconds = 0, 0.0, 0.0
        if is_writer():
            try:
                self._file.append(json_line(record))
            except OSError as error:
                if not self._failed:
                    why = error.strerror or error
                    warnings.warn(f"{self.path}: step {state.step} not recorded: {why}; training goes on", stacklevel=2)
                self._failed = True

    def _earlier(self) -> list[dict[str, Any]]:
        """The records up to the step that training goes on from."""
        try:
            records = read_history(self.path)
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{error}; to go on, remove {self.path}") from None
        for number, record in enumerate(records, 1):
            if type(record.get("step")) is not int:
                where = f"{self.path}, line {number}"
                raise CheckpointError(f"{where}: not a record of steps; to go on, remove {self.path}")
        return [record for record in records if record["step"] <= self.state.step]
