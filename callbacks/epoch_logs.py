"""One record an epoch, whoever drives the callbacks, and what a callback remembers between epochs.

Paddle's own `fit` ends an epoch and evaluates after it, `cifar_hapi.Model` evaluates before the epoch ends. A callback
that wants both an epoch's training and evaluation metrics takes them here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from paddle.callbacks import Callback
from pydantic import ConfigDict, TypeAdapter, ValidationError

Logs = dict[str, Any]


@dataclass
class Nothing:
    """The state of a callback that remembers nothing."""


class EpochLogs(Callback):
    """Base of callbacks that act on whole epochs, `on_epoch_complete(epoch, record)`, and can go on where they stopped.

    `epoch` counts from 0, as in Paddle, over all parts of a training that was resumed. `record` holds plain numbers:
    training metrics by their names, evaluation metrics by theirs with `eval_` before them. An epoch is complete when
    its evaluation is over, or, if there is none, when the next one begins or training ends.

    `State`, a dataclass, names what must be remembered; `state` is a fresh one in each `fit`, or the one that
    `set_state_dict` has brought back.
    """

    State: type = Nothing
    training = False
    _resumed: tuple[int, Any] | None = None
    _epoch: int | None = None

    def on_epoch_complete(self, epoch: int, record: Logs) -> None:
        """To be overridden."""

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that a later `fit` needs to go on from here: numbers, texts, lists, dictionaries and arrays."""
        return {"epochs": self._epochs, **dataclasses.asdict(self.state)}

    def set_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next `fit` go on from `state`. Raises ValueError for anything that `state_dict` would not give."""
        rest = dict(state)
        epochs = rest.pop("epochs", None)
        if type(epochs) is not int or epochs < 0:
            raise ValueError(f"state of {type(self).__name__}: epochs = {epochs!r}: not a count")
        self._resumed = epochs, checked(self.State, rest, type(self).__name__)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._epochs, self.state = self._resumed or (0, self.State())
        # Paddle's own fit counts the epochs of a resumed training from 0 again.
        self._before = 0 if "initial_epoch" in self.params else self._epochs
        self._resumed, self._epoch = None, None
        self._record: Logs = {}
        self.training = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._complete()
        self._epoch, self._trained = self._before + epoch, False

    def on_eval_end(self, logs: Logs | None = None) -> None:
        if self._epoch is not None:  # else an evaluation of its own, outside of training
            metrics = {key: value for key, value in plain_numbers(logs).items() if not key.startswith("eval_")}
            self._record.update({f"eval_{key}": value for key, value in metrics.items()})
            if self._trained:  # Paddle's own fit: the epoch had ended before
                self._complete()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._record.update(plain_numbers(logs))
        self._trained = True
        if self.params.get("evaluates_within_epoch"):  # cifar_hapi.Model: nothing more will come
            self._complete()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._complete()
        self.training = False

    def _course_before(self) -> tuple[int, int]:
        """Batches that the training had before this `fit`, and epochs begun, for a callback that was not there then."""
        epochs, batches = (self.params.get(f"initial_{unit}") or 0 for unit in ("epoch", "step"))
        return epochs * (self.params.get("steps") or 0) + batches, epochs + (batches > 0)

    def _complete(self) -> None:
        if self._epoch is not None:
            record = sorted(self._record.items(), key=lambda item: item[0].startswith("eval_"))
            self._epochs = self._epoch + 1
            self.on_epoch_complete(self._epoch, dict(record))
            self._epoch, self._record = None, {}


def checked(kind: type, values: Any, owner: str) -> Any:
    """The dataclass `kind` made of `values` that come from a file. Raises ValueError naming `owner` and the field."""
    known = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(values, dict) or values.keys() != known:
        found = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"state of {owner}: expected {sorted(known)}, found {found}")
    with_arrays = type(kind.__name__, (kind,), {"__pydantic_config__": ConfigDict(arbitrary_types_allowed=True)})
    try:
        return kind(**vars(TypeAdapter(with_arrays).validate_python(values)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"state of {owner}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None


def plain_numbers(logs: Logs | None) -> Logs:
    """The metrics in `logs` as Python numbers; Paddle's `loss` is a list of its summands."""
    arrays = {key: np.asarray(value) for key, value in (logs or {}).items() if key not in ("step", "batch_size")}
    if "loss" in arrays:
        arrays["loss"] = arrays["loss"].sum()
    return {key: value.item() for key, value in arrays.items() if value.size == 1 and value.dtype.kind in "fiub"}


def batch_loss(logs: Logs | None) -> float:
    """Of the last step alone, whoever drives the callbacks: Paddle's own `fit` calls that `loss`."""
    metrics = plain_numbers(logs)
    return float(metrics["batch_loss"] if "batch_loss" in metrics else metrics["loss"])
