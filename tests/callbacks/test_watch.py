"""What is watched, in which direction, and what counts as better."""

from __future__ import annotations

import pytest
from toy import batches, play, toy_model

from callbacks import LambdaCallback
from callbacks.watch import MetricWatcher, UnknownMetric, Watch

NAN = float("nan")


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        *((name, "min") for name in ("loss", "eval_loss", "eval_error", "ece", "top1_error")),
        *((name, "max") for name in ("acc", "eval_acc", "top5", "eval_auc", "f1", "acc_top1", "eval_piece_acc")),
    ],
)
def test_auto_knows_these_names(monitor, mode):
    assert Watch(monitor).mode == mode


@pytest.mark.parametrize("monitor", ["eval_margin", "topology", "glossary", "pieces"])
def test_auto_does_not_guess(monitor):
    with pytest.raises(ValueError, match=f"does not know whether {monitor} is to rise or to fall: say max or min"):
        Watch(monitor)


def test_the_direction_can_be_given():
    assert Watch("eval_margin", "max").mode == "max"
    with pytest.raises(ValueError, match="mode = 'maximum': expected auto, max or min"):
        Watch("loss", "maximum")


@pytest.mark.parametrize(
    ("mode", "min_delta", "value", "than", "better"),
    [
        ("max", 0.0, 0.5, None, True),
        ("max", 0.0, 0.5, 0.4, True),
        ("max", 0.0, 0.5, 0.5, False),
        ("max", 0.25, 0.75, 0.5, False),
        ("max", 0.25, 1.0, 0.5, True),
        ("min", 0.0, 0.4, 0.5, True),
        ("min", 0.0, 0.5, 0.5, False),
        ("min", 0.25, 0.25, 0.5, False),
        ("min", -0.25, 0.25, 0.5, False),
        ("min", 0.25, 0.0, 0.5, True),
    ],
)
def test_better_is_better_by_more_than_min_delta(mode, min_delta, value, than, better):
    assert Watch("x", mode, min_delta).better(value, than) == better


def test_a_missing_metric_is_told_with_those_that_are_there():
    with pytest.raises(UnknownMetric, match="no metric is called eval_top5; there are: loss, acc, eval_acc"):
        Watch("eval_top5").value({"loss": 1.0, "acc": 0.5, "eval_acc": 0.4})
    assert Watch("eval_acc").value({"loss": 1.0}) is None  # an epoch without evaluation
    assert Watch("loss").value({"loss": NAN}) is None
    with pytest.raises(UnknownMetric, match="no metric is called los;"):
        Watch("los", "min").value({"loss": 1.0})


class Values(MetricWatcher):
    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.seen = []

    def on_value(self, epoch, value):
        self.seen.append((epoch, value, self.model.stop_training))


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("monitor", ["loss", "eval_loss"])
def test_each_epoch_that_has_the_metric_is_looked_at_once(stock, monitor):
    watcher = Values(monitor)
    records = [{"loss": 3.0, "eval_loss": 3.5}, {"loss": 2.0}, {"loss": 1.0, "eval_loss": 1.5}]
    play(watcher, records, stock)
    expected = [(0, 3.0), (1, 2.0), (2, 1.0)] if monitor == "loss" else [(0, 3.5), (2, 1.5)]
    assert [each[:2] for each in watcher.seen] == expected


BOTH = pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])


@BOTH
def test_an_evaluation_that_never_was_is_an_error_as_soon_as_it_is_known(stock):
    epochs = []
    with pytest.raises(UnknownMetric, match="eval_loss was never there: nothing was evaluated; give fit"):
        play(Values("eval_loss"), [{"loss": 1.0}] * 3, stock, on_epoch=lambda model, epoch: epochs.append(epoch))
    assert len(epochs) == (1 if stock else 3)  # Paddle's own fit evaluates after the first epoch, or never
    with pytest.raises(UnknownMetric, match="eval_loss was never there"):
        toy_model(stock).fit(batches(), epochs=1, verbose=0, callbacks=[Values("eval_loss")])


@BOTH
@pytest.mark.parametrize(("monitor", "evaluated"), [("loss", False), ("loss", True), ("eval_loss", True)])
def test_stop_training_takes_effect_before_the_next_epoch(stock, monitor, evaluated):
    class Stop(Values):
        def on_value(self, epoch, value):
            self.model.stop_training = epoch == 1

    epochs = []
    counting = LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    eval_data = batches() if evaluated else None
    toy_model(stock).fit(batches(), eval_data, epochs=4, verbose=0, callbacks=[Stop(monitor), counting])
    assert epochs == [0, 1]
