"""TerminateOnNaN: stops at the very step, and says which."""

from __future__ import annotations

import numpy as np
import pytest
from paddle.callbacks import Callback
from toy import batches, drive, toy_model

from callbacks import Checkpoint, CheckpointError, ExponentialMovingAverage, NonFiniteLoss, TerminateOnNaN


@pytest.mark.parametrize(
    ("losses", "step", "last"),
    [([1.5, 0.5, float("nan")], 3, "0.5"), ([float("inf")], 1, "None"), ([2.0, float("-inf"), 1.0], 2, "2.0")],
)
def test_the_error_names_step_rate_and_last_finite_loss(losses, step, last):
    with pytest.raises(NonFiniteLoss, match=rf"at step {step}, learning rate 0.1, last finite loss {last}"):
        drive(TerminateOnNaN(), [{"loss": loss} for loss in losses])


def test_finite_losses_pass():
    drive(TerminateOnNaN(), [{"loss": loss} for loss in (3.0, 1e30, -1.0)])


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
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


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_it_goes_back_to_the_last_good_checkpoint_with_a_lower_rate(tmp_path, stock):
    model, average = toy_model(stock), ExponentialMovingAverage(0.9)
    checkpoint = Checkpoint(tmp_path, callbacks=[average])
    guard = TerminateOnNaN(checkpoint, retries=2, factor=0.5)
    with pytest.warns(UserWarning, match=r"the loss is nan at step 5.*back to step-00000003, at 0\.5 times the rate"):
        model.fit(batches(), epochs=3, verbose=0, callbacks=[Spoiler(4, 7), average, guard, checkpoint])
    assert guard.state.returns == 2 and model._optimizer.get_lr() == pytest.approx(0.1 * 0.25)
    assert all(np.isfinite(tensor.numpy()).all() for tensor in model.network.state_dict().values())


def test_after_the_last_return_it_is_an_error_with_the_whole_story(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    guard = TerminateOnNaN(checkpoint, retries=1)
    error = pytest.raises(NonFiniteLoss, match=r"at step 6.*after 1 returns to checkpoints; try a lower rate")
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
