"""An average of the weights over the last steps, which is often better than the last weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import paddle
from pydantic import Field

from callbacks.epoch_logs import EpochLogs, Logs
from callbacks.paddle_model import Tensors, check_shapes, keeps_statistics, norm_layers, set_weights, weights
from callbacks.population_statistics import population_statistics, tensor_name


class ExponentialMovingAverage(EpochLogs):
    """Averages the weights after each step, and evaluates, saves and ends with the average.

        average = ExponentialMovingAverage(0.99)
        model.fit(data, val, epochs=5, callbacks=[average])     # evaluates the average, and leaves it in the network

    average = d * average + (1 - d) * weights, with d = min(decay, (1 + t) / (10 + t)) at the t-th time if warm_up.
    Training itself goes on with the weights as they are, bit for bit.

    batch_norm: where the running mean and variance that go with the averaged weights come from. "average": from
    averaging them, as all buffers of floats; "recalculate": from `batches`, an iterable of training batches (inputs
    first) that can be gone through again and again, each time that the averages are evaluated or saved: the mean of
    the batches' statistics, the variance of their means included (Izmailov et al. 2018, arXiv 1803.05407). Layers that
    are frozen, by `eval()` or `use_global_stats`, keep theirs. every_steps: how often, in steps.

    To be placed before callbacks that look at an evaluation's weights (EarlyStopping, Checkpoint). `swapped_in()` puts
    the averages into the network for a while. As a context manager the callback takes them out after an error;
    `cifar_hapi.Model` uses it so.
    """

    @dataclass
    class State:
        steps: Annotated[int, Field(ge=0, strict=True)] = 0
        averages: dict[str, np.ndarray] = field(default_factory=dict)

    def __init__(
        self,
        decay: float = 0.999,
        warm_up: bool = True,
        batch_norm: Literal["average", "recalculate"] = "average",
        batches: Iterable[Any] | None = None,
        every_steps: int = 1,
    ):
        super().__init__()
        if not 0 < decay < 1:
            raise ValueError(f"ExponentialMovingAverage: decay = {decay}: must lie between 0 and 1")
        if every_steps < 1:
            raise ValueError(f"ExponentialMovingAverage: every_steps = {every_steps}: must be at least 1")
        if batch_norm not in ("average", "recalculate"):
            raise ValueError(f'ExponentialMovingAverage: batch_norm = {batch_norm!r}: "average" or "recalculate"')
        if (batch_norm == "recalculate") != (batches is not None):
            raise ValueError('ExponentialMovingAverage: batches go with batch_norm = "recalculate", and it needs them')
        self.decay, self.warm_up, self.batches, self.every_steps = decay, warm_up, batches, every_steps
        self._averages: dict[str, paddle.Tensor] = {}
        self._recalculated: tuple[int, Tensors] = -1, {}
        self._raw: Tensors | None = None  # while the averages are in the network
        self._last: Tensors | None = None  # what training ended with
        self._evaluation = contextlib.ExitStack()

    def __enter__(self) -> ExponentialMovingAverage:
        return self

    def __exit__(self, *error: object) -> None:
        self._evaluation.close()

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The network holds the averages inside of the `with`, and what it held before after it."""
        if not self._averages:
            raise RuntimeError("ExponentialMovingAverage: there are no averages before fit")
        if self._raw is not None:  # they are there already
            yield
            return
        self._raw = weights(self.model)
        try:
            set_weights(self.model, {**self._raw, **self._averaged()})
            if self.batches is not None:
                set_weights(self.model, {**weights(self.model), **self._statistics(self.batches)})
            yield
        finally:
            raw, self._raw = self._raw, None
            if raw is not None:  # else they are to stay
                set_weights(self.model, raw)

    def saved_weights(self, current: Tensors) -> tuple[Tensors, Tensors]:
        """The weights to use and those to go on training with; `current`: what the network holds."""
        raw = self._last if self._raw is None else self._raw
        if raw is not None:
            return current, raw
        with self.swapped_in():
            return weights(self.model), current

    def roll_back(self, state: dict[str, Any]) -> None:
        """Go back to what `state_dict` gave earlier, in the middle of a training."""
        self.state.steps = state["steps"]
        self._set_averages(state["averages"])
        self._recalculated, self._raw = (-1, {}), None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "averages": self._averaged()}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._norms = {name: norm for name, norm in norm_layers(self.model.network).items() if keeps_statistics(norm)}
        self._moving = self._norms  # those that aren't frozen, as far as is known before the first step
        self._recalculated, self._raw, self._last = (-1, {}), None, None
        self._averages = self._first_averages()
        if self.state.averages:
            self._set_averages(self.state.averages)
            self.state.averages = {}

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        self.state.steps += 1
        self._moving = {name: layer for name, layer in self._norms.items() if layer.training}
        times, remainder = divmod(self.state.steps, self.every_steps)
        if remainder:
            return
        decay = min(self.decay, (1 + times) / (10 + times)) if self.warm_up else self.decay
        now = self.model.network.state_dict()
        with paddle.no_grad():
            for name, average in self._averages.items():
                average.add_((now[name] - average) * (1 - decay))  # in half the time of lerp_

    def on_eval_begin(self, logs: Logs | None = None) -> None:
        if self._epoch is not None:  # else after training, when the averages are there already
            self._evaluation.enter_context(self.swapped_in())

    def on_eval_end(self, logs: Logs | None = None) -> None:
        self._evaluation.close()
        super().on_eval_end(logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        with self.swapped_in():
            self._last, self._raw = self._raw, None

    def _first_averages(self) -> dict[str, paddle.Tensor]:
        """Copies of what is to be averaged."""
        names = [tensor_name(norm, each) for norm in self._norms for each in ("_mean", "_variance")]
        recalculated = set(names) if self.batches is not None else set()
        averages = {}
        for name, tensor in self.model.network.state_dict().items():
            if tensor.is_floating_point() and name not in recalculated:
                if tensor.dtype not in (paddle.float32, paddle.float64):
                    raise ValueError(
                        f"ExponentialMovingAverage: {name} is {tensor.dtype}: too coarse for an average; "
                        "keep the network in float32 (amp level O1)"
                    )
                averages[name] = tensor.detach().clone()
        return averages

    def _set_averages(self, arrays: Tensors) -> None:
        here, who = self._averaged(), "state of ExponentialMovingAverage"
        try:
            check_shapes({name: average.shape for name, average in here.items()}, arrays, "network")
        except ValueError as error:
            raise ValueError(f"{who}: {error}") from None
        for name, array in arrays.items():
            if array.dtype != here[name].dtype:
                raise ValueError(f"{who}: is of another network: {name}: {array.dtype}, here {here[name].dtype}")
            self._averages[name].set_value(array)

    def _averaged(self) -> Tensors:
        return {name: average.numpy() for name, average in self._averages.items()}

    def _statistics(self, batches: Iterable[Any]) -> Tensors:
        """Running means and variances for the averages, which are in the network; once for each step."""
        if self._recalculated[0] != self.state.steps:
            found = population_statistics(self.model, batches, self._moving)
            self._recalculated = self.state.steps, found.statistics
        return self._recalculated[1]
