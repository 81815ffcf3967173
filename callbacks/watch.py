"""What is watched while a model trains, and what counts as better."""

from __future__ import annotations

import math
import re
from typing import Literal

from callbacks.epoch_logs import EpochLogs, Logs
from callbacks.processes import agreed

Mode = Literal["auto", "max", "min"]
_SMALL = {"loss", "error", "err", "ece", "nll", "mse", "rmse", "mae", "perplexity"}
_LARGE = {"acc", "accuracy", "top", "auc", "precision", "recall", "f1", "iou", "miou"}


class UnknownMetric(ValueError):
    """A metric that is watched and that a training doesn't have; the text lists those that it has."""


class Watch:
    """A metric by name, the direction in which it gets better, and by how much it must.

    monitor: as in an epoch's record, evaluation metrics with `eval_` before them. mode: "max", "min", or "auto" for
    names that tell (losses and errors are to fall, accuracies to rise). min_delta: what a change must exceed.

    Raises ValueError for a mode that isn't one, and for "auto" with any other name.
    """

    def __init__(self, monitor: str, mode: Mode = "auto", min_delta: float = 0.0):
        if mode not in ("auto", "max", "min"):
            raise ValueError(f"mode = {mode!r}: expected auto, max or min")
        self.monitor, self.min_delta = monitor, abs(min_delta)
        self.mode = _direction(monitor) if mode == "auto" else mode

    def value(self, record: Logs) -> float | None:
        """The metric in an epoch's record; None where it is NaN, or where nothing was evaluated and it needs that.

        Raises UnknownMetric where the record should have it.
        """
        if self.monitor in record:
            value = float(record[self.monitor])
            return None if math.isnan(value) else value
        if self.needs_evaluation and not any(name.startswith("eval_") for name in record):
            return None
        raise UnknownMetric(f"no metric is called {self.monitor}; there are: {', '.join(record) or 'none'}")

    def better(self, value: float, than: float | None) -> bool:
        """Whether `value` is better than the best so far, None if there is none yet."""
        if than is None:
            return True
        return value - self.min_delta > than if self.mode == "max" else value + self.min_delta < than

    @property
    def needs_evaluation(self) -> bool:
        return self.monitor.startswith("eval_")


class MetricWatcher(EpochLogs):
    """Base of callbacks that decide by one metric: `on_value(epoch, value)`, once an epoch that has it.

    A NaN comes as None. Paddle's own `fit` heeds `stop_training` right after an epoch and after its evaluation, so a
    training metric is looked at in `on_epoch_end`, and an evaluation's when the epoch is complete. Without any
    evaluation, that is an UnknownMetric: after the first epoch under Paddle's own `fit`, else at the end of training.
    """

    def __init__(self, monitor: str, mode: Mode = "auto", min_delta: float = 0.0):
        super().__init__()
        self.watch = Watch(monitor, mode, min_delta)
        self.state = self.State()

    def on_value(self, epoch: int, value: float | None) -> None:
        raise NotImplementedError

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._seen = self._missed = False

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if not self.watch.needs_evaluation and self._epoch is not None:  # else complete, and looked at, already
            self._look(self._epoch, self._record)

    def on_epoch_complete(self, epoch: int, record: Logs) -> None:
        if self.watch.needs_evaluation or self.params.get("evaluates_within_epoch"):
            self._look(epoch, record)

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        if self._missed and not self._seen:
            self._refuse()

    def improves(self, value: float | None, than: float | None) -> bool:
        """Whether `value` is better than the best so far: the same in all processes, which must all ask."""
        return agreed(value is not None and self.watch.better(value, than))

    def _look(self, epoch: int, record: Logs) -> None:
        value = self.watch.value(record)
        if self.watch.monitor in record:
            self._seen = True
            self.on_value(epoch, value)
        elif self._seen or self.params.get("evaluates_within_epoch"):
            self._missed = True
        else:  # Paddle's own fit evaluates after the first epoch, or never
            self._refuse()

    def _refuse(self) -> None:
        raise UnknownMetric(f"{self.watch.monitor} was never there: nothing was evaluated; give fit() eval_data")


def _direction(monitor: str) -> Literal["max", "min"]:
    words = set(re.split(r"[^a-z0-9]+", monitor.lower()))
    words |= {word.rstrip("0123456789") for word in words}
    if words & _SMALL:  # first: a top1_error is an error
        return "min"
    if words & _LARGE:
        return "max"
    raise ValueError(f'mode = "auto" does not know whether {monitor} is to rise or to fall: say max or min')
