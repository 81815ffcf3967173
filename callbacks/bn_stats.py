"""Batch normalisation as training goes on: what its layers hold, and what they see."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from callbacks.bn_file import StatsFile
from callbacks.bn_gradients import NormGradients
from callbacks.bn_layout import CHANGES, GRADIENTS, PROBED, TENSORS, Layout
from callbacks.bn_measure import measured, row
from callbacks.checkpoint_folder import CheckpointError
from callbacks.epoch_logs import EpochLogs, Logs
from callbacks.paddle_model import check_shapes, norm_layers, norm_tensors
from callbacks.processes import is_writer


class BatchNormStats(EpochLogs):
    """Records running mean, running variance, scale and shift of all batch-norm layers, before training and as it goes.

        model.fit(data, val, epochs=5, callbacks=[BatchNormStats("bn.jsonl")])
        records = load_bn_stats("bn.jsonl")
        records["conv1.bn", "running_variance"]     # float32 [records, 6]: min, quartiles, max, norm

    A record also has the Euclidean norm of each one's change since the last record (`running_mean_change` ...), NaN in
    the first. What is recorded are the weights that training goes on with, also beside `ExponentialMovingAverage`.

    path: the file, see bn_file.py; one of an earlier training is replaced. every_epochs, every_steps: how often, in any
    combination; a step is a batch. channels: "summary", or "all" for each channel's values.

    probe: a batch of inputs (an array, or inputs first) on which each record looks: `batch_mean` and `batch_variance`
    of each layer's input, and `cut`, the share of its output that is <= 0, which a ReLU after it would cut off; per
    channel. That is one forward pass in evaluation mode, by Paddle's own kernels, and training is the same without it.
    Layers that are not called have NaN.

    gradients: also the norms of the loss's gradients by scale and shift in the step before the record
    (`scale_gradient`, `shift_gradient`), without weight decay; with several processes those of the first one's batch.
    NaN before the first step, and for layers of which one of the two is frozen or doesn't exist. Where gradients of
    several batches are added up, they are those of the batches so far.

    After a resume the file goes on behind the record that the checkpoint knows of. A record that cannot be written is
    warned of and left out. Of several processes the first one records. Raises ValueError where a network has no
    batch-norm layer or does not take the probe, with the file as it was, and for a path that is a folder;
    CheckpointError where the file to go on with was recorded with other settings.
    """

    @dataclass
    class State:
        step: Annotated[int, Field(ge=0, strict=True)] = 0
        records: Annotated[int, Field(ge=0, strict=True)] = 0
        recorded: int = -1  # the step of the last record
        last: dict[str, np.ndarray] = field(default_factory=dict)  # its running mean ... shift: float32 [4, C] by layer

    def __init__(
        self,
        path: str | Path,
        every_epochs: int | None = 1,
        every_steps: int | None = None,
        channels: Literal["summary", "all"] = "summary",
        probe: Any = None,
        gradients: bool = False,
    ):
        super().__init__()
        for name, count in (("every_epochs", every_epochs), ("every_steps", every_steps)):
            if count is not None and type(count) is not int:
                raise TypeError(f"BatchNormStats: {name} = {count!r}: must be a whole number, or None")
            if count is not None and count < 1:
                raise ValueError(f"BatchNormStats: {name} = {count}: must be at least 1")
        if channels not in ("summary", "all"):
            raise ValueError(f'BatchNormStats: channels = {channels!r}: "summary" or "all"')
        if not isinstance(gradients, bool):
            raise TypeError(f"BatchNormStats: gradients = {gradients!r}: must be True or False")
        if not isinstance(path, str | Path):
            raise TypeError(f"BatchNormStats: path is a {type(path).__name__}: name a file, such as bn.jsonl")
        if Path(path).is_dir():
            raise ValueError(f"BatchNormStats: path = {str(path)!r}: is a folder; name a file in it, such as bn.jsonl")
        self.path, self.channels, self.probe, self.gradients = Path(path), channels, probe, gradients
        self.every_epochs, self.every_steps = every_epochs, every_steps
        self._gradients = NormGradients()

    def __enter__(self) -> BatchNormStats:
        return self

    def __exit__(self, *error: object) -> None:
        self._gradients.stop()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        resumed = self._resumed is not None
        super().on_train_begin(logs)
        self._gradients, self._listened = NormGradients(), not resumed
        self._norms = norm_layers(self.model.network)
        if not self._norms:
            raise ValueError("BatchNormStats: the network has no batch-norm layer")
        self._file = StatsFile(self.path, self._layout())
        if resumed:
            self._go_on()
        else:
            self._begin()

    def on_train_batch_begin(self, step: int, logs: Logs | None = None) -> None:
        if self.gradients and is_writer():
            self._gradients.forget()
            self._listened = self._may_be_recorded(step)
            if self._listened:
                self._gradients.listen(self.model, self._norms)

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        self._gradients.stop()
        self.state.step += 1
        # With the epoch's last batch, so that a checkpoint in the evaluation after it has the record.
        if self._is_due(self.state.step) or (self._epoch_is_due() and self.params.get("steps") == step + 1):
            self._write(self._epoch_number())

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        # For an epoch whose last batch was not known to be that. Not when it is complete: then others may have put
        # weights to evaluate, or the best ones, into the network.
        if self._epoch_is_due():
            self._write(self._epoch_number())
        super().on_epoch_end(epoch, logs)

    def _begin(self) -> None:
        """A new file and its first record, also where the training has steps behind it that nobody has recorded."""
        self.state.step, epochs = self._course_before()
        if is_writer():
            values = self._measured()  # first: a probe that the network does not take leaves an earlier file alone
            self._file.begin()
            self._write(epochs, values)

    def _go_on(self) -> None:
        """Leave in the file what the checkpoint knows of."""
        if not is_writer():
            return
        try:
            self._check_last()
            found = self._file.go_on(self.state.records)
        except FileNotFoundError:
            self._file.begin()
            found = 0
        except ValueError as error:
            raise CheckpointError(f"{error}; to go on, remove {self.path} or record as before") from None
        if found < self.state.records:
            missing = f"{self.state.records - found} of {self.state.records} records up to step {self.state.recorded}"
            warnings.warn(f"{self.path}: {missing} are missing; it goes on without them", stacklevel=2)
            self.state.records = found

    def _check_last(self) -> None:
        layers = self._file.layout.layers if self.state.records else {}
        shapes: dict[str, tuple[int, ...]] = {name: (len(TENSORS), channels) for name, channels in layers.items()}
        try:
            check_shapes(shapes, self.state.last, "network")
        except ValueError as error:
            raise ValueError(f"state of BatchNormStats: {error}") from None

    def _layout(self) -> Layout:
        channels = {name: len(norm_tensors(norm)["running_mean"]) for name, norm in self._norms.items()}
        per_channel = TENSORS if self.probe is None else (*TENSORS, *PROBED)
        norms = (*CHANGES, *GRADIENTS) if self.gradients else CHANGES
        return Layout(channels, per_channel, norms, summarised=self.channels == "summary")

    def _epoch_number(self) -> int:
        """Of the epoch that the last step was in, counted from 1."""
        return 1 + (self._epoch if self._epoch is not None else self._epochs)

    def _may_be_recorded(self, step: int) -> bool:
        """Whether there may be a record after this step of the epoch, as far as can be told before it."""
        may_be_last = self.params.get("steps") in (None, step + 1)
        return self._is_due(self.state.step + 1) or (self._epoch_is_due() and may_be_last)

    def _is_due(self, step: int) -> bool:
        return self.every_steps is not None and step % self.every_steps == 0

    def _epoch_is_due(self) -> bool:
        return self.every_epochs is not None and self._epoch_number() % self.every_epochs == 0

    def _measured(self) -> dict[str, np.ndarray]:
        return measured(self.model, self._norms, self.probe, self._gradients if self.gradients else None)

    def _write(self, epoch: int, values: dict[str, np.ndarray] | None = None) -> None:
        """One record of the present state, unless there is one of this step; `values` if they are measured already."""
        state = self.state
        if state.recorded == state.step or not is_writer():
            return
        if self.gradients and not self._listened:
            early = "the epoch ended without a batch that was known to be its last"
            warnings.warn(f"{self.path}: step {state.step} has no gradients: {early}", stacklevel=2)
        values = self._measured() if values is None else values
        try:
            self._file.append(state.step, epoch, row(self._file.layout, values, state.last))
        except OSError as error:
            why = error.strerror or error
            warnings.warn(f"{self.path}: step {state.step} not recorded: {why}; training goes on", stacklevel=2)
            return
        state.records, state.recorded = state.records + 1, state.step
        state.last = {name: array[: len(TENSORS)] for name, array in values.items()}
