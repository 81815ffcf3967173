"""A toy model that trains in milliseconds, as cifar_hapi.Model or as Paddle's own."""

from __future__ import annotations

import numpy as np
import paddle
from paddle.callbacks import Callback

from callbacks import CheckpointFolder, read_history
from cifar_hapi.model import Model

_RNG = np.random.default_rng(0)
IMAGES = _RNG.standard_normal((23, 4)).astype("float32")
LABELS = _RNG.integers(0, 3, (23, 1))


def batches(size=8):
    """The 23 samples as batches; the last one is short."""
    return [[IMAGES[start : start + size], LABELS[start : start + size]] for start in range(0, len(IMAGES), size)]


def toy_model(stock=False, lr=0.1):
    paddle.seed(0)
    network = paddle.nn.Sequential(
        paddle.nn.Linear(4, 8), paddle.nn.BatchNorm1D(8), paddle.nn.ReLU(), paddle.nn.Linear(8, 3)
    )
    model = (paddle.Model if stock else Model)(network)
    optimizer = paddle.optimizer.Momentum(lr, parameters=network.parameters())
    model.prepare(optimizer, paddle.nn.CrossEntropyLoss(), paddle.metric.Accuracy())
    return model


class Stop(Callback):
    """Ends the process's training, as a crash would, after so many steps."""

    acts_last = True

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, step, logs=None):
        self.left = self.left and self.left - 1
        if self.left == 0:
            raise ConnectionError("crash")


def drive(callback, records, epochs=None):
    """Give `callback` a training of one step an epoch whose metrics are `records`, without a network to train."""
    model = toy_model()
    model.stop_training = False
    callback.set_model(model)
    callback.set_params({"epochs": epochs or len(records), "steps": 1, "metrics": ["loss"]})
    callback.on_train_begin({})
    for epoch, record in enumerate(records):
        callback.on_epoch_begin(epoch, {})
        callback.on_train_batch_begin(0, {})
        callback.on_train_batch_end(0, {"loss": record.get("loss", 1.0), "step": 0, "batch_size": 1})
        callback.on_epoch_end(epoch, dict(record))
    callback.on_train_end({})


def play(callback, records, stock=False, model=None, first=0, on_epoch=None):
    """Give `callback` epochs with these `records` until it stops training, as either Model does; how many it saw.

    Metrics that begin with eval_ come from an evaluation; an epoch without any has none.
    """
    model = model or toy_model(stock)
    model.stop_training = False
    callback.set_model(model)
    resumed = {} if stock else {"initial_epoch": first, "evaluates_within_epoch": True}
    callback.set_params({"epochs": len(records), "steps": 1, "metrics": ["loss"], **resumed})
    callback.on_train_begin({})
    for epoch, record in enumerate(records):
        place = epoch if stock else first + epoch
        trained = {key: value for key, value in record.items() if not key.startswith("eval_")}
        evaluated = {key.removeprefix("eval_"): value for key, value in record.items() if key.startswith("eval_")}
        callback.on_epoch_begin(place, {})
        callback.on_train_batch_begin(0, {})
        if on_epoch:
            on_epoch(model, place)
        callback.on_train_batch_end(0, {"loss": [1.0], "step": 0, "batch_size": 1})
        if stock:
            callback.on_epoch_end(place, trained)
        if evaluated:
            callback.on_eval_begin({})
            callback.on_eval_end(evaluated)
        if not stock:
            callback.on_epoch_end(place, dict(record))
        if model.stop_training:
            break
    callback.on_train_end({})
    return epoch + 1


def same_training(one, other):
    """What differs between the newest checkpoints of two trainings, and the files beside them, but for times."""
    folders = [CheckpointFolder(each) for each in (one, other)]
    first, second = (folder.read(folder.names()[-1]) for folder in folders)
    differing = [folders[0].names()[-1]] if folders[0].names()[-1] != folders[1].names()[-1] else []
    for part in ("weights", "training", "optimizer", "callbacks"):
        here, there = (getattr(each, part) or {} for each in (first, second))
        differing += [name for name in {**here, **there} if not _same_bits(here.get(name), there.get(name))]
    states = [timeless(each.state) for each in (first, second)]
    differing += [key for key in states[0] if states[0][key] != states[1].get(key)]
    differing += [name for name in ("history.jsonl", "steps.jsonl") if _records(one / name) != _records(other / name)]
    recorded = [each / "bn.jsonl" for each in (one, other) if (each / "bn.jsonl").exists()]
    return differing + (["bn.jsonl"] if len({file.read_bytes() for file in recorded}) > 1 else [])


def _same_bits(one, other):
    return one is not None and other is not None and one.dtype == other.dtype and one.tobytes() == other.tobytes()


def timeless(value):
    """A state or a history without its times."""
    if isinstance(value, dict):
        return {
            key: timeless(each) for key, each in value.items() if "second" not in key and not key.startswith("timed")
        }
    return [timeless(each) for each in value] if isinstance(value, list) else value


def _records(file):
    return timeless(read_history(file)) if file.exists() else None
