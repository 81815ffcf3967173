"""A toy model that trains in milliseconds, as cifar_hapi.Model or as Paddle's own."""

from __future__ import annotations

import numpy as np
import paddle

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
