"""What one sees while a model trains: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from callbacks.epoch_logs import EpochLogs, Logs, plain_numbers
from callbacks.paddle_model import learning_rate

_REFRESH_SECONDS = 0.5  # drawing the bar takes a millisecond of the step that it falls in
_ROOM_FOR_A_BAR = 90  # columns


class Progress(EpochLogs):
    """Epoch, step, time left, images a second, running metrics and learning rate; one lasting line an epoch.

    every_seconds: how often a line is printed where the output is no terminal. console: where to, standard error if
    absent. No thread of its own draws, so that none takes time from a step. As a context manager it leaves the terminal
    in order after an error; `cifar_hapi.Model` uses it so.
    """

    def __init__(self, every_seconds: float = 30.0, console: Console | None = None):
        super().__init__()
        self.console = console or Console(stderr=True)
        self.every_seconds = every_seconds if not self.console.is_terminal else _REFRESH_SECONDS
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._steps_done = 0
        self._begin = self._shown = time.perf_counter()
        if self.console.is_terminal:
            place, metrics = TextColumn("{task.description}"), TextColumn("{task.fields[metrics]}")
            both = TextColumn("{task.description}  {task.fields[metrics]}")
            columns = (place, BarColumn(bar_width=16), metrics) if self.console.width >= _ROOM_FOR_A_BAR else (both,)
            self._bar = Bar(*columns, console=self.console, auto_refresh=False, transient=True)
            self._task = self._bar.add_task("", metrics="")
            self._bar.start()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._epoch_images, self._train_seconds = 0, 0.0
        self._epoch_begin = time.perf_counter()

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        self._rate = learning_rate(self.model)

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        self._steps_done += 1
        self._epoch_images += int((logs or {}).get("batch_size", 0))
        now = time.perf_counter()
        self._train_seconds = now - self._epoch_begin
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
        metrics = {key: value for key, value in record.items() if key not in ("batch_loss", "lr")}
        speed = self._epoch_images / max(self._train_seconds, 1e-9)
        self._print(f"{self._place()}  {_joined(metrics)}  {_clock(self._train_seconds)}  {speed:.0f} images/s")

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
        metrics = {key: value for key, value in plain_numbers(logs).items() if key not in ("batch_loss", "lr")}
        speed = self._epoch_images / max(self._train_seconds, 1e-9)
        return f"ETA {self._time_left()}  {speed:.0f} images/s  {_joined(metrics)}  lr {self._rate:.3g}"

    def _time_left(self) -> str:
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if not steps or not epochs:
            return "?"
        left = (epochs - self.params.get("initial_epoch", 0)) * steps - self._steps_done
        return _clock((time.perf_counter() - self._begin) / self._steps_done * left)

    def _place(self) -> str:
        return f"epoch {(self._epoch or 0) + 1}/{self.params.get('epochs') or '?'}"

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

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
