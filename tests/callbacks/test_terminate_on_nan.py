"""TerminateOnNaN: stops at the very step, and says which."""

from __future__ import annotations

import numpy as np
import pytest
from paddle.callbacks import Callback
from toy import batches, drive, toy_model

from callbacks import NonFiniteLoss, TerminateOnNaN


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
