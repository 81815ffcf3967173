"""Saving a training as it goes, and going on from there."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from paddle.callbacks import Callback

from callbacks import random_state
from callbacks.checkpoint_folder import CheckpointError, CheckpointFolder, Saved, name_of
from callbacks.checkpoint_writer import CheckpointWriter
from callbacks.epoch_logs import EpochLogs, Logs
from callbacks.paddle_model import Tensors, initial_seed, weights
from callbacks.processes import heard, highest, is_writer
from callbacks.signals import SignalWatch
from callbacks.training_state import (
    ResumePoint,
    TrainingState,
    by_name,
    callback_states,
    can_begin_within_an_epoch,
    capture,
    put_back,
    put_back_weights,
    training_state,
)
from callbacks.watch import Watch


class Checkpoint(EpochLogs):
    """Saves all that a training needs to go on bit for bit, and makes it end well at SIGTERM and Ctrl-C.

    To be given last in the list of callbacks (`cifar_hapi.Model` sees to that).

        checkpoint = Checkpoint("checkpoints", monitor="eval_acc", callbacks=[stopping, history])
        point = checkpoint.resume(model)            # ResumePoint(epoch=0, ...) where there is nothing yet
        model.fit(data, val, epochs=20 - point.epoch, callbacks=[stopping, history, checkpoint])

    folder: where (see checkpoint_folder.py). every_epochs, every_steps, every_seconds: how often; after the last epoch
    always. Steps are batches. keep: how many of the newest remain. monitor, mode: the metric that tells the best, and
    whether the `max` or `min` of it (`auto` for names it knows); None tells no best. keep_best: how many of the best
    remain, whatever their age; `best` names the first of them. callbacks: those whose state is to be saved
    (`state_dict`, `set_state_dict`); under `cifar_hapi.Model` all are.

    A thread writes, one checkpoint at a time; training waits for the copy in memory only. A write that fails is warned
    of and training goes on; if the last one failed, the training ends with CheckpointError. Of several processes the
    first one writes.
    """

    acts_last = True

    @dataclass
    class State:
        step: int = 0
        best: list[tuple[float, str]] = field(default_factory=list)

    def __init__(
        self,
        folder: str | Path,
        every_epochs: int | None = 1,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        keep: int = 3,
        keep_best: int = 1,
        monitor: str | None = None,
        mode: Literal["auto", "max", "min"] = "auto",
        callbacks: Sequence[Callback] = (),
    ):
        super().__init__()
        counts = {"every_epochs": every_epochs, "every_steps": every_steps, "keep": keep, "keep_best": keep_best}
        wrong = [f"{name} = {count}" for name, count in counts.items() if count is not None and count < 1]
        if wrong:
            raise ValueError(f"Checkpoint: {', '.join(wrong)}: must be at least 1")
        self.folder = CheckpointFolder(folder)
        self.every_epochs, self.every_steps, self.every_seconds = every_epochs, every_steps, every_seconds
        self.keep_best = keep_best
        self.watch = Watch(monitor, mode) if monitor else None
        self.callbacks, self.state = list(callbacks), self.State()
        self._signals, self._writer = SignalWatch(), CheckpointWriter(self.folder, keep)
        self.point: ResumePoint | None = None
        self._random: dict[str, Any] | None = None
        self._held: Saved | None = None
        self._epoch_end = ""
        self._seed = 0
        self._states: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *error: object) -> None:
        self._signals.stop()
        self._settle()

    @property
    def told_to_end(self) -> int:
        """The signal that this process has been sent, or 0."""
        return self._signals.received or 0

    def resume(self, model: Any) -> ResumePoint:
        """Put the newest intact checkpoint into `model`, and make the next `fit` go on from there.

        Damaged ones are passed over with a warning. Under a `fit` that can't begin within an epoch, Paddle's own, the
        newest one at an epoch's end is taken. Without any, nothing changes. Raises CheckpointError for a checkpoint of
        another network or optimiser.
        """
        if is_writer():
            self.folder.sweep()
        for name, saved in self.folder.intact():
            try:
                state = training_state(saved)
                if state.batch == 0 or can_begin_within_an_epoch(model):
                    return self._go_on(model, name, saved, state)
            except ValueError as error:
                raise CheckpointError(f"{self.folder.path / name}: {error}") from None
        return ResumePoint()

    def roll_back(self) -> str:
        """Put weights, averages and optimiser state of the newest checkpoint with finite weights back; its name.

        The place in the data, the schedule and the random numbers stay. Raises CheckpointError where there is none.
        """
        self._settle()
        for name, saved in self.folder.intact():
            if all(np.isfinite(tensor).all() for tensor in saved.to_go_on.values()):
                put_back_weights(self.model, saved)
                states = callback_states(saved)
                for key, callback in by_name(self.callbacks).items():
                    if hasattr(callback, "saved_weights"):
                        callback.roll_back(states[key])
                return name
        raise CheckpointError(f"{self.folder.path}: no checkpoint with finite weights")

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        self.callbacks = [each for each in params.get("callbacks", self.callbacks) if each is not self]
        states, self._states = self._states, {}
        for name, callback in by_name(self.callbacks).items():
            if name in states:
                try:
                    callback.set_state_dict(states.pop(name))
                except ValueError as error:
                    raise CheckpointError(f"{self.folder.path}: {error}") from None
        for name in [name for name, state in states.items() if state.keys() > {"epochs"}]:
            warnings.warn(f"the checkpoint has the state of a {name}, which is not among the callbacks", stacklevel=2)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        late = [type(each).__name__ for each in self.callbacks if isinstance(each, EpochLogs) and not each.training]
        if late:
            raise ValueError(f"Checkpoint must come after {', '.join(late)} in the list of callbacks")
        if self.point is None and self.folder.names():
            raise CheckpointError(
                f"{self.folder.path}: has checkpoints already, and none that resume(model) went on from; "
                "call it before fit, or choose another folder"
            )
        super().on_train_begin(logs)
        self._first_batch = self.point.batch if self.point else 0
        self._seed = self._seed if self.point else initial_seed()
        self.point, self._held = None, None
        self._saved_at, self._due = time.monotonic(), False
        self._began_at = self.state.step
        self._planned = self._before + (self.params.get("epochs") or 0)
        if is_writer():
            self.folder.sweep()
        self._signals.start()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._batch, self._first_batch = self._first_batch, 0
        self._random_at_epoch = random_state.capture()

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        if self._random is not None:  # the first batch after a resume within an epoch
            random_state.restore(self._random)
            self._random = None
        random_state.seed_step(self._seed, self.state.step)

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        self.state.step += 1
        self._batch = step + 1
        if self._writer.is_done:
            self._settle()
        self._due = self._due or self._is_due()
        if ending := self._ending():
            self._save_and_leave(self._captured(), ending)
        elif self._due and self._batch != self.params.get("steps"):  # else at the epoch's end, which comes now
            self._save(self._captured())

    def on_eval_batch_end(self, step: int, logs: Logs | None = None) -> None:
        training = self._epoch is not None and can_begin_within_an_epoch(self.model)  # else at the evaluation's end
        if training and (ending := self._ending()):
            self._save_and_leave(self._captured(), ending)

    def on_epoch_complete(self, epoch: int, record: Logs) -> None:
        self._batch, self._record, self._random_at_epoch = 0, record, random_state.capture()
        self._due = self._note_best(record) or self._due
        self._due = self._due or (self.every_epochs is not None and (epoch + 1) % self.every_epochs == 0)
        if self.model.stop_training or epoch + 1 == self._planned:
            self._held = self._captured(epoch + 1)  # until the training's end: others may exchange the weights then
        elif ending := self._ending():
            self._save_and_leave(self._captured(epoch + 1), ending)
        elif self._due:
            self._save(self._captured(epoch + 1))

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        if self._held or self.state.step > self._began_at:  # else nothing was left to do
            self._save_end(self._held or self._captured())
        self._held = None
        ending = highest(self.told_to_end)  # also what came since the last step
        if ending:
            self._signals.leave(ending)
        self._signals.stop()

    def _save_end(self, saved: Saved) -> None:
        """Save what the training ended with, and the weights that it would go on with if others replaced them."""
        now = weights(self.model)
        final = replace(saved, weights=now, training=None if _equal(now, saved.to_go_on) else saved.to_go_on)
        final.state["ended"] = True
        for _attempt in range(2):
            self._save(final)
            self._settle()
            if not self._writer.failed:
                break
        else:
            raise CheckpointError(f"the end of the training could not be saved: {self._writer.failed}")

    def _go_on(self, model: Any, name: str, saved: Saved, state: TrainingState) -> ResumePoint:
        put_back(model, saved, state)
        self._states = callback_states(saved)
        self.set_state_dict(self._states.pop("Checkpoint", {}))
        self._seed, self._random = state.seed, state.random if state.batch else None
        self.point = ResumePoint(state.epoch, state.batch, state.step, state.planned, state.ended)
        if not can_begin_within_an_epoch(model):
            self._epoch_end = name  # to stay until there is a newer one at an epoch's end
        return self.point

    def _captured(self, epochs: int | None = None) -> Saved:
        """Everything, at present; epochs: how many are complete."""
        before = self._epochs if self._epoch is None else self._epoch
        return capture(
            self.model,
            {**by_name(self.callbacks), "Checkpoint": self},
            ResumePoint(before if epochs is None else epochs, self._batch, self.state.step, self._planned),
            metrics=dict(self._record),
            seed=self._seed,
            random_at_epoch=self._random_at_epoch,
        )

    def _is_due(self) -> bool:
        if self.every_steps and self.state.step % self.every_steps == 0:
            return True
        return self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds

    def _note_best(self, record: Logs) -> bool:
        """Whether the epoch is among the `keep_best`; remembers it then."""
        value = self.watch.value(record) if self.watch else None
        if self.watch is None or value is None:
            return False
        ahead = [each for each in self.state.best if not self.watch.better(value, each[0])]
        behind = self.state.best[len(ahead) :]
        self.state.best = [*ahead, (value, name_of(self.state.step)), *behind][: self.keep_best]
        return len(ahead) < self.keep_best

    def _save(self, saved: Saved) -> None:
        self._saved_at, self._due = time.monotonic(), False
        if is_writer():
            self._settle()
            if saved.state["batch"] == 0 and not can_begin_within_an_epoch(self.model):
                self._epoch_end = name_of(saved.state["step"])  # all that Paddle's own fit can go on from
            self._writer.start(saved, [name for _, name in self.state.best], self._epoch_end)

    def _settle(self) -> None:
        """Wait for the checkpoint that is being written; one that could not be is none of the best."""
        lost = self._writer.settle()
        self.state.best = [each for each in self.state.best if each[1] != lost]

    def _ending(self) -> int:
        """The signal by which the training is to end now, in all processes, or 0."""
        return heard(self.model, self.told_to_end)

    def _save_and_leave(self, saved: Saved, ending: int) -> None:
        self._save(saved)
        self._settle()
        self._signals.leave(ending)


def _equal(one: Tensors, other: Tensors) -> bool:
    return all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
