"""One record an epoch, whoever drives the callbacks.

Paddle's own `fit` ends an epoch and evaluates after it, `cifar_hapi.Model` evaluates before the epoch ends. A callback
that wants both an epoch's training and evaluation metrics takes them here: an epoch is complete when the next one
begins or training ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from paddle.callbacks import Callback

Logs = dict[str, Any]


class EpochLogs(Callback):
    """Base of callbacks that act on whole epochs: `on_epoch_complete(epoch, record)`.

    `epoch` counts from 0, as in Paddle. `record` holds plain numbers: training metrics by their names, evaluation
    metrics by theirs with `eval_` before them.
    """

    def on_epoch_complete(self, epoch: int, record: Logs) -> None:
        raise NotImplementedError

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._epoch: int | None = None
        self._record: Logs = {}

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._complete()
        self._epoch = epoch

    def on_eval_end(self, logs: Logs | None = None) -> None:
        if getattr(self, "_epoch", None) is not None:  # else an evaluation of its own, outside of training
            metrics = {key: value for key, value in plain_numbers(logs).items() if not key.startswith("eval_")}
            self._record.update({f"eval_{key}": value for key, value in metrics.items()})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._record.update(plain_numbers(logs))
        if self.params.get("evaluates_within_epoch"):  # cifar_hapi.Model: nothing more will come
            self._complete()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._complete()

    def _complete(self) -> None:
        if self._epoch is not None:
            ordered = sorted(self._record.items(), key=lambda item: item[0].startswith("eval_"))
            self.on_epoch_complete(self._epoch, dict(ordered))
        self._epoch, self._record = None, {}


def plain_numbers(logs: Logs | None) -> Logs:
    """The metrics in `logs` as Python numbers; Paddle's `loss` is a list of its summands."""
    arrays = {key: np.asarray(value) for key, value in (logs or {}).items() if key not in ("step", "batch_size")}
    if "loss" in arrays:
        arrays["loss"] = arrays["loss"].sum()
    return {key: value.item() for key, value in arrays.items() if value.size == 1 and value.dtype.kind in "fiub"}
