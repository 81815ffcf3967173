"""An average of the weights over the last steps, which is often better than the last weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from callbacks.epoch_logs import EpochLogs, Logs
from callbacks.paddle_model import Tensors, set_weights, weights


class ExponentialMovingAverage(EpochLogs):
    """Averages the weights after each step, and evaluates, saves and ends with the average.

        average = ExponentialMovingAverage(0.99)
        model.fit(data, val, epochs=5, callbacks=[average])     # evaluates the average, and leaves it in the network

    average = d * average + (1 - d) * weights, with d = min(decay, (1 + t) / (10 + t)) after t steps if warm_up. Running
    mean and variance of batch norm are averaged likewise. Training itself goes on with the weights as they are.

    To be placed before callbacks that look at an evaluation's weights (EarlyStopping, Checkpoint). `swapped_in()` puts
    the average into the network for a while; as a context manager the callback takes it out after an error.
    """

    @dataclass
    class State:
        steps: int = 0
        averages: dict[str, np.ndarray] = field(default_factory=dict)

    def __init__(self, decay: float = 0.999, warm_up: bool = True):
        super().__init__()
        if not 0 < decay < 1:
            raise ValueError(f"ExponentialMovingAverage: decay = {decay}: must lie between 0 and 1")
        self.decay, self.warm_up = decay, warm_up
        self._averages: dict[str, paddle.Tensor] = {}
        self._raw: Tensors | None = None

    def __enter__(self) -> ExponentialMovingAverage:
        return self

    def __exit__(self, *error: object) -> None:
        self._swap_out()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "averages": self._averaged()}

    def saved_weights(self, current: Tensors) -> tuple[Tensors, Tensors]:
        """The weights to use and those to go on training with; `current`: what the network holds."""
        return {**current, **self._averaged()}, current if self._raw is None else self._raw

    def roll_back(self, state: dict[str, Any]) -> None:
        """Go back to what `state_dict` gave earlier, in the middle of a training."""
        self.state.steps = state["steps"]
        self._averages = {name: paddle.to_tensor(array) for name, array in state["averages"].items()}

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The network holds the averages inside of the `with`, and what it held before after it."""
        self._swap_in()
        try:
            yield
        finally:
            self._swap_out()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._raw = None
        begun = self.state.averages or {name: array for name, array in weights(self.model).items() if _floats(array)}
        self._averages = {name: paddle.to_tensor(array) for name, array in begun.items()}
        self.state.averages = {}

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        steps = self.state.steps = self.state.steps + 1
        decay = min(self.decay, (1 + steps) / (10 + steps)) if self.warm_up else self.decay
        now = self.model.network.state_dict()
        with paddle.no_grad():
            for name, average in self._averages.items():
                average.lerp_(now[name], 1 - decay)

    def on_eval_begin(self, logs: Logs | None = None) -> None:
        if self._epoch is not None:  # else after training, when the averages are there already
            self._swap_in()

    def on_eval_end(self, logs: Logs | None = None) -> None:
        self._swap_out()
        super().on_eval_end(logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        if self._averages:
            self._swap_in()
        self._raw = None

    def _averaged(self) -> Tensors:
        return {name: average.numpy() for name, average in self._averages.items()}

    def _swap_in(self) -> None:
        if self._raw is None:
            self._raw = weights(self.model)
            set_weights(self.model, {**self._raw, **self._averaged()})

    def _swap_out(self) -> None:
        if self._raw is not None:
            raw, self._raw = self._raw, None
            set_weights(self.model, raw)


def _floats(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"
