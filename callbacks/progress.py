"""What one sees while a model trains: a bar in a terminal, plain lines elsewhere, notebooks included."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from callbacks.epoch_logs import EpochLogs, Logs, plain_numbers
from callbacks.paddle_model import learning_rate
from callbacks.processes import is_writer

_REFRESH_SECONDS = 0.5  # drawing the bar takes a millisecond of the step that it falls in
_ROOM_FOR_A_BAR = 90  # columns
_SHOWN_OTHERWISE = ("batch_loss", "lr", "images_per_second")


class Progress(EpochLogs):
    """Epoch, step, time left, images a second, running metrics and learning rate; one lasting line an epoch.

        model.fit(data, val, epochs=5, verbose=0, callbacks=[Progress()])

    every_seconds: how often a line is printed where there is no bar: outside of a terminal, and in a notebook (rich's
    bar needs ipywidgets there). console: where to, standard error if absent. Of several processes the first one prints.
    Images a second leave out the first step, which prepares the others. No thread of its own draws, so that none takes
    time from a step. As a context manager, and in `cifar_hapi.Model`, it leaves the terminal in order after an error.
    """

    def __init__(self, every_seconds: float = 30.0, console: Console | None = None):
        super().__init__()
        self.console = console or Console(stderr=True)
        self._draws = self.console.is_terminal and not (self.console.is_jupyter or self.console.is_dumb_terminal)
        self.every_seconds = _REFRESH_SECONDS if self._draws else every_seconds
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._speaks, self._steps_done = is_writer(), 0
        self._begin = self._shown = time.perf_counter()
        if self._speaks and self._draws:
            place, metrics = TextColumn("{task.description}"), TextColumn("{task.fields[metrics]}", markup=False)
            both = TextColumn("{task.description}  {task.fields[metrics]}", markup=False)
            columns = (place, BarColumn(bar_width=16), metrics) if self.console.width >= _ROOM_FOR_A_BAR else (both,)
            self._bar = Bar(*columns, console=self.console, auto_refresh=False, transient=True)
            self._task = self._bar.add_task("", metrics="the first step prepares the others")
            self._bar.start()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._epoch_images, self._train_seconds = 0, 0.0
        self._first_images, self._first_seconds = 0, 0.0
        self._epoch_begin: float | None = None

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        self._rate = learning_rate(self.model)
        if self._epoch_begin is None:  # not at the epoch's begin: other callbacks may be busy with the one before
            self._epoch_begin = time.perf_counter()

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        now = time.perf_counter()
        self._steps_done += 1
        self._epoch_images += int((logs or {}).get("batch_size", 0))
        self._train_seconds = now - (self._epoch_begin or now)
        if self._steps_done == 1:
            self._first_images, self._first_seconds = self._epoch_images, self._train_seconds
            self._prepared = now
        if now - self._shown >= self.every_seconds:
            self._shown = now
            self._show(step + 1, self.params.get("steps"), self._running(logs))

    def on_eval_begin(self, logs: Logs | None = None) -> None:
        self._eval_steps = (logs or {}).get("steps")

    def on_eval_batch_end(self, step: int, logs: Logs | None = None) -> None:
        now = time.perf_counter()
        if self._bar is not None and now - self._shown >= self.every_seconds:
            self._shown = now
            self._show(step + 1, self._eval_steps, "evaluating")

    def on_epoch_complete(self, epoch: int, record: Logs) -> None:
        metrics = {key: value for key, value in record.items() if key not in _SHOWN_OTHERWISE}
        self._print(f"{self._place()}  {_joined(metrics)}  {_clock(self._train_seconds)}  {self._speed()}")

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        self._close()

    def _show(self, step: int, steps: int | None, text: str) -> None:
        place = f"{self._place()}  step {step}/{steps or '?'}"
        if self._bar is None:
            self._print(f"{place}  {text}")
        else:
            self._bar.update(self._task, description=place, completed=step, total=steps, metrics=text)
            self._bar.refresh()

    def _running(self, logs: Logs | None) -> str:
        metrics = {key: value for key, value in plain_numbers(logs).items() if key not in _SHOWN_OTHERWISE}
        return f"ETA {self._time_left()}  {self._speed()}  {_joined(metrics)}  lr {self._rate:.3g}"

    def _speed(self) -> str:
        images, seconds = self._epoch_images, self._train_seconds
        if images > self._first_images:
            images, seconds = images - self._first_images, seconds - self._first_seconds
        speed = images / max(seconds, 1e-9)
        return f"{speed:.0f} images/s" if speed >= 10 else f"{speed:.2g} images/s"

    def _time_left(self) -> str:
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if not steps or not epochs:
            return "?"
        begun = self.params.get("initial_epoch", 0) * steps + self.params.get("initial_step", 0)
        left, now = epochs * steps - begun - self._steps_done, time.perf_counter()
        if self._steps_done == 1:
            return _clock((now - self._begin) * left)
        return _clock((now - self._prepared) / (self._steps_done - 1) * left)

    def _place(self) -> str:
        epochs = self.params.get("epochs")
        return f"epoch {(self._epoch or 0) + 1}/{self._before + epochs if epochs else '?'}"

    def _print(self, text: str) -> None:
        if self._speaks:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _joined(metrics: dict[str, Any]) -> str:
    return "  ".join(f"{key} {value:.4f}" for key, value in metrics.items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
