"""Learning rate and throughput among the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from callbacks.epoch_logs import EpochLogs, Logs
from callbacks.paddle_model import learning_rate
from callbacks.step_clock import StepClock

_ADDED = ("lr", "images_per_second")


class LearningRateLogger(EpochLogs):
    """Adds `lr`, the rate that a step took, and `images_per_second` of the epoch so far to the logs.

        model.fit(data, epochs=2, callbacks=[LearningRateLogger(), paddle.callbacks.VisualDL("logs")])

    Callbacks after it in the list see them in each step and epoch. The rate of images is that of the training steps
    alone, where the logs tell the size of a batch.
    """

    @dataclass
    class State:
        images: int = 0  # of the epoch so far
        seconds: float = 0.0
        lr: float = 0.0  # of the last step

    def __init__(self) -> None:
        super().__init__()
        self._clock = StepClock()

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        params["metrics"] = [*params.get("metrics", ()), *_ADDED]  # all that Paddle's bar and VisualDL look at

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._clock.begin_epoch()

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        self.state.lr = learning_rate(self.model)
        self._clock.begin_step()

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        seconds, state = self._clock.end_step(), self.state
        state.images += int((logs or {}).get("batch_size", 0))
        state.seconds += seconds
        self._add(logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._add(logs)
        self.state.images, self.state.seconds = 0, 0.0
        super().on_epoch_end(epoch, logs)

    def on_eval_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        _remove(logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        _remove(logs)

    def _add(self, logs: Logs | None) -> None:
        if logs is not None:
            logs["lr"] = self.state.lr
            if self.state.images:
                logs["images_per_second"] = round(self.state.images / max(self.state.seconds, 1e-9), 1)


def _remove(logs: Logs | None) -> None:
    """Paddle's own fit has one dictionary for all epochs, evaluations and models: what is put in there stays."""
    for name in _ADDED:
        (logs or {}).pop(name, None)
