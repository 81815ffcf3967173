"""TerminateOnNaN: stops at the very step, and says which."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from paddle.callbacks import Callback
from toy import batches, drive, toy_model

from callbacks import (
    Checkpoint,
    CheckpointError,
    ExponentialMovingAverage,
    LambdaCallback,
    NonFiniteLoss,
    TerminateOnNaN,
)
from callbacks.paddle_model import set_weights, weights

BOTH = pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "step", "last"),
    [([1.5, 0.5, NAN], 3, "0.5"), ([float("inf")], 1, "None"), ([2.0, float("-inf"), 1.0], 2, "2.0")],
)
def test_the_error_names_step_rate_and_last_finite_loss(losses, step, last):
    with pytest.raises(NonFiniteLoss, match=rf"at step {step}, learning rate 0.1, last finite loss {last}"):
        drive(TerminateOnNaN(), [{"loss": loss} for loss in losses])


def test_finite_losses_pass():
    drive(TerminateOnNaN(), [{"loss": loss} for loss in (3.0, 1e30, -1.0)])


@BOTH
def test_a_training_that_diverges_is_stopped_at_its_first_bad_step(stock):
    class Poison(Callback):
        def on_train_batch_begin(self, step, logs=None):
            if step == 1:
                self.model.network[-1].bias.set_value(np.full(3, np.nan, "float32"))

    with pytest.raises(NonFiniteLoss, match="at step 2,"):
        toy_model(stock).fit(batches(), epochs=2, verbose=0, callbacks=[Poison(), TerminateOnNaN()])


class Spoiler(Callback):
    """Makes a weight NaN before some steps, counted from 0 over all epochs."""

    def __init__(self, *steps):
        super().__init__()
        self.steps, self.step = steps, 0

    def on_train_batch_begin(self, step, logs=None):
        if self.step in self.steps:
            weight = self.model.network[3].weight  # the last layer: Paddle's ReLU makes 0 of NaN
            weight.set_value(np.full(weight.shape, np.nan, "float32"))
        self.step += 1


@BOTH
def test_it_goes_back_to_the_last_good_checkpoint_with_a_lower_rate(tmp_path, stock):
    model, average = toy_model(stock), ExponentialMovingAverage(0.9)
    checkpoint = Checkpoint(tmp_path, callbacks=[average])
    guard = TerminateOnNaN(checkpoint, retries=2, factor=0.5)
    first = r"loss is nan at step 5.*back to step-00000003, at 0\.5 times the rate, 0\.05 now \(1 of 2 returns\)"
    second = r"loss is nan at step 8.*back to step-00000006, at 0\.5 times the rate, 0\.025 now \(2 of 2 returns\)"
    with pytest.warns(UserWarning, match=first), pytest.warns(UserWarning, match=second):
        model.fit(batches(), epochs=3, verbose=0, callbacks=[Spoiler(4, 7), average, guard, checkpoint])
    assert guard.state.factors == [0.5, 0.5] and model._optimizer.get_lr() == 0.1 * 0.25
    assert all(np.isfinite(tensor.numpy()).all() for tensor in model.network.state_dict().values())


def test_after_the_last_return_it_is_an_error_with_the_whole_story(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    guard = TerminateOnNaN(checkpoint, retries=1)
    error = pytest.raises(NonFiniteLoss, match=r"at step 6.*after 1 of 1 returns to checkpoints; try a lower rate")
    with pytest.warns(UserWarning, match="back to"), error:
        toy_model().fit(batches(), epochs=3, verbose=0, callbacks=[Spoiler(3, 5), guard, checkpoint])


def test_without_a_good_checkpoint_there_is_no_way_back(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint with finite weights"):
        toy_model().fit(batches(), verbose=0, callbacks=[Spoiler(1), TerminateOnNaN(checkpoint, retries=1), checkpoint])


@pytest.mark.parametrize("options", [{"retries": 1}, {"retries": -1}, {"factor": 1.5}])
def test_retries_need_a_checkpoint_and_a_factor_below_one(options):
    with pytest.raises(ValueError, match="retries need a checkpoint"):
        TerminateOnNaN(**options)


class Fake:
    """Stands for a Checkpoint: puts back the weights that `model` has now."""

    def __init__(self, model=None):
        self.model, self.good, self.calls = model, model and weights(model), 0

    def roll_back(self):
        self.calls += 1
        if self.model:
            set_weights(self.model, self.good)
        return "step-00000042"


@BOTH
def test_bad_gradients_that_were_being_accumulated_do_not_come_back(stock):
    model = toy_model(stock)
    guard = TerminateOnNaN(Fake(model), retries=1)
    with pytest.warns(UserWarning, match="at step 1.*back to step-00000042"):
        model.fit(batches(), epochs=2, verbose=0, accumulate_grad_batches=2, callbacks=[Spoiler(0), guard])
    assert all(np.isfinite(tensor).all() for tensor in weights(model).values())


@BOTH
def test_an_evaluation_that_is_no_number_is_gone_back_from_too(stock):
    model = toy_model(stock)
    guard = TerminateOnNaN(Fake(model), retries=1)

    def spoil(logs):
        model.network[3].bias.set_value(np.full(3, np.nan, "float32"))

    with (
        pytest.warns(UserWarning, match="the loss of the evaluation after step 3 is nan: back to step-00000042"),
        pytest.raises(NonFiniteLoss, match="the evaluation after step 6 is nan, after 1 of 1 returns"),
    ):
        model.fit(batches(), batches(), epochs=4, verbose=0, callbacks=[LambdaCallback(on_eval_begin=spoil), guard])
    assert guard.checkpoint.calls == 1


@pytest.mark.parametrize("cut", range(1, 6))
def test_returns_and_the_rate_survive_a_resume(cut):
    def guarded(losses, state=None):
        guard = TerminateOnNaN(Fake(), retries=3, factor=0.3)
        if state:
            guard.set_state_dict(state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            drive(guard, [{"loss": loss} for loss in losses])
        return guard.state_dict(), guard.model.optimizer.get_lr()

    losses = [1.0, NAN, 2.0, NAN, NAN, 3.0]
    half, _ = guarded(losses[:cut])
    whole = guarded(losses)
    assert guarded(losses[cut:], half) == whole and whole[0]["factors"] == [0.3] * 3
    with pytest.raises(NonFiniteLoss, match=r"at step 7.*last finite loss 3\.0, after 3 of 3 returns"):
        guarded([NAN], whole[0])


def test_processes_go_back_together(monkeypatch):
    """This one's loss is bad one step before the first one's is."""
    guard, decided = TerminateOnNaN(Fake(), retries=1), iter([False, True])
    monkeypatch.setattr("callbacks.terminate_on_nan.agreed", lambda decision: next(decided))
    with pytest.warns(UserWarning, match=r"at step 2, learning rate 0\.1, last finite loss None: back"):
        drive(guard, [{"loss": NAN}, {"loss": 1.0}])
    assert guard.checkpoint.calls == 1
