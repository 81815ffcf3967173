"""LearningRateLogger: the rate and the throughput among the metrics, for whatever comes after it."""

from __future__ import annotations

import paddle
import pytest
from paddle.optimizer.lr import StepDecay
from toy import batches, toy_model

from callbacks import LambdaCallback, LearningRateLogger

BOTH = pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])


@BOTH
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


@BOTH
def test_throughput_is_that_of_the_epochs_steps_alone(monkeypatch, stock):
    """Neither evaluations nor callbacks that are busy between epochs count."""
    clock = [0.0]
    monkeypatch.setattr("callbacks.step_clock.time.perf_counter", lambda: clock[0])

    def wait(seconds):
        clock[0] += seconds

    rates = []
    busy = LambdaCallback(
        on_epoch_begin=lambda epoch, logs: wait(100),
        on_train_batch_begin=lambda step, logs: wait(2),
        on_eval_end=lambda logs: wait(100),
    )
    look = LambdaCallback(on_train_batch_end=lambda step, logs: rates.append(logs["images_per_second"]))
    toy_model(stock).fit(batches(), batches(), epochs=2, verbose=0, callbacks=[LearningRateLogger(), busy, look])
    assert rates == [4.0, 4.0, 3.8] * 2  # 8, 16 and 23 images in 2, 4 and 6 s


@BOTH
def test_paddles_bar_shows_them(stock, capsys):
    """It looks at the metrics that are named when training begins, as VisualDL does, not at what is in the logs."""
    bar = paddle.callbacks.ProgBarLogger(log_freq=1, verbose=2)
    toy_model(stock).fit(batches(), batches(), epochs=1, verbose=2, callbacks=[LearningRateLogger(), bar])
    training, _evaluation = capsys.readouterr().out.split("Eval begin")
    assert "lr: 0.1" in training and "images_per_second: " in training
