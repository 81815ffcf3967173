"""LambdaCallback and LearningRateLogger: small things, under both Models."""

from __future__ import annotations

import paddle
import pytest
from paddle.optimizer.lr import StepDecay
from toy import batches, toy_model

from callbacks import LambdaCallback, LearningRateLogger


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_functions_are_called_at_their_moments(stock):
    seen = []
    callback = LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(("epoch", epoch)),
        on_train_batch_end=lambda step, logs: seen.append(("step", step)),
        on_train_end=lambda logs: seen.append("end"),
    )
    toy_model(stock).fit(batches(), epochs=2, verbose=0, callbacks=[callback])
    steps = [("step", 0), ("step", 1), ("step", 2)]
    assert seen == [*steps, ("epoch", 0), *steps, ("epoch", 1), "end"]


def test_an_unknown_moment_is_told_with_the_nearest():
    with pytest.raises(TypeError, match="on_epoch_ends is no moment; did you mean on_epoch_end"):
        LambdaCallback(on_epoch_ends=print)


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_rate_and_throughput_are_among_the_logs(stock):
    steps, epochs = [], []
    look = LambdaCallback(
        on_train_batch_end=lambda step, logs: steps.append(dict(logs)),
        on_epoch_end=lambda epoch, logs: epochs.append(dict(logs)),
    )
    model = toy_model(stock)
    rate = StepDecay(0.1, 2, 0.5)
    model.prepare(paddle.optimizer.SGD(rate, parameters=model.parameters()), paddle.nn.CrossEntropyLoss())
    model.fit(batches(), epochs=2, verbose=0, callbacks=[LearningRateLogger(), look])
    assert [logs["lr"] for logs in steps] == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]  # what the step took, not the next
    assert [logs["lr"] for logs in epochs] == [0.05, 0.025]
    assert all(logs["images_per_second"] > 0 for logs in steps + epochs)
    evaluations, later = [], []
    model.fit(
        batches(),
        batches(),
        verbose=0,
        callbacks=[LearningRateLogger(), LambdaCallback(on_eval_end=lambda logs: evaluations.append(dict(logs)))],
    )
    look = LambdaCallback(on_train_batch_end=lambda step, logs: later.append(dict(logs)))
    toy_model(stock).fit(batches(), verbose=0, callbacks=[look])
    assert not [logs for logs in evaluations + later if "lr" in logs or "images_per_second" in logs]
