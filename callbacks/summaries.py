"""The course of a training, and its batch norm, for the web pages of TensorBoard and VisualDL."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.epoch_logs import Logs
from callbacks.history import History
from callbacks.paddle_model import norm_layers
from callbacks.processes import is_writer

_PICTURE = 320  # pixels, about


class Summaries(History):
    """What `TensorBoard` and `VisualDL` have in common. Of several processes the first one writes.

    x is the epoch, counted from 1. Scalars: `loss/train`, `loss/eval` and so on, `learning_rate` (of the epoch's last
    step), `images_per_second`. Pictures: `confusion/eval`, where the evaluation has a square matrix called `confusion`,
    each row's shares. Histograms, of the finite values, every `every_epochs` epochs:
    `batch_norm/<layer>/scale`, `shift`, `running_mean`, `running_variance`; None leaves them out.
    """

    package = ""
    extra = ""

    def __init__(self, folder: str | Path, every_epochs: int | None = 1):
        super().__init__()
        if every_epochs is not None and every_epochs < 1:
            raise ValueError(f"{type(self).__name__}: every_epochs = {every_epochs}: must be at least 1")
        try:
            self._library = importlib.import_module(self.package)
        except ModuleNotFoundError as error:
            raise ImportError(
                f"{type(self).__name__} needs {self.package}: pip install cifar-hapi[{self.extra}]"
            ) from error
        self.folder, self.every_epochs = Path(folder), every_epochs
        self._writer: Any = None

    def new_writer(self, first_epoch: int) -> Any:
        """To be overridden: one of the library's, for epochs from `first_epoch` (counted from 1) on."""
        raise NotImplementedError

    def __enter__(self) -> Summaries:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._close()
        self._matrices: dict[str, np.ndarray] = {}
        if is_writer():
            self._writer = self.new_writer(self._epochs + 1)

    def on_eval_end(self, logs: Logs | None = None) -> None:
        arrays = {key: np.asarray(value) for key, value in (logs or {}).items()}
        self._matrices = {key: array for key, array in arrays.items() if _is_square_matrix(array)}
        super().on_eval_end(logs)

    def on_epoch_complete(self, epoch: int, record: Logs) -> None:
        super().on_epoch_complete(epoch, record)
        matrices, self._matrices = self._matrices, {}
        if self._writer is None:
            return
        _add_scalars(self._writer, self.state.records[-1])
        for name, matrix in matrices.items():
            self._writer.add_image(f"{name}/eval", _picture(matrix), epoch + 1, dataformats="HWC")
        if self.every_epochs is not None and (epoch + 1) % self.every_epochs == 0:
            for name, values in _batch_norm(self.model).items():
                self._writer.add_histogram(name, values, epoch + 1)
        self._writer.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class TensorBoard(Summaries):
    """Event files for TensorBoard (and W&B, Comet and others that read them).

        model.fit(data, val, epochs=5, callbacks=[TensorBoard("logs")])     # then: tensorboard --logdir logs

    A training that begins anew or goes on in the same folder takes the place of what is there from its first epoch on.
    """

    package, extra = "tensorboardX", "tensorboard"

    def new_writer(self, first_epoch: int) -> Any:
        return self._library.SummaryWriter(str(self.folder), purge_step=first_epoch)


class VisualDL(Summaries):
    """Log files for VisualDL, Paddle's own.

        model.fit(data, val, epochs=5, callbacks=[VisualDL("logs")])        # then: visualdl --logdir logs

    VisualDL shows the newest file of a folder: after a resume that is one with the scalars of all epochs, and with
    histograms and pictures from then on.
    """

    package, extra = "visualdl", "visualdl"

    def new_writer(self, first_epoch: int) -> Any:
        writer = self._library.LogWriter(str(self.folder))
        for record in self.state.records:
            _add_scalars(writer, record)
        return writer


def _add_scalars(writer: Any, record: Logs) -> None:
    for key, value in record.items():
        if key not in ("epoch", "step", "seconds"):
            writer.add_scalar(_tag(key), value, record["epoch"])


def _tag(key: str) -> str:
    if key.startswith("eval_"):
        return f"{key.removeprefix('eval_')}/eval"
    return {"lr": "learning_rate", "images_per_second": "images_per_second"}.get(key, f"{key}/train")


def _batch_norm(model: Any) -> dict[str, np.ndarray]:
    """The finite values of each batch-norm tensor, by tag; none of a tensor that has none."""
    parts = {"weight": "scale", "bias": "shift", "_mean": "running_mean", "_variance": "running_variance"}
    tensors = model.network.state_dict()
    values = {}
    for layer in norm_layers(model.network):
        prefix = f"{layer}." if layer else ""
        for part, label in parts.items():
            if f"{prefix}{part}" in tensors:  # scale and shift can be left out
                values[f"batch_norm/{layer or 'network'}/{label}"] = tensors[f"{prefix}{part}"].numpy()
    finite = {tag: each[np.isfinite(each)] for tag, each in values.items()}
    return {tag: each for tag, each in finite.items() if each.size}


def _is_square_matrix(array: np.ndarray) -> bool:
    return array.ndim == 2 and array.shape[0] == array.shape[1] > 1 and array.dtype.kind in "iuf"


def _picture(matrix: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: white is 0, blue is a whole row. Roots, so that an error of one in a hundred is seen."""
    shares = np.sqrt(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))
    colours = 255 - shares[..., None] * (255 - np.array([8, 48, 107]))
    cell = max(1, _PICTURE // len(matrix))
    return colours.round().astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
