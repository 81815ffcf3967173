"""scale_rate: the rates of any schedule, times a factor, from the next step on."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.callbacks import LRScheduler
from paddle.optimizer import lr as schedules
from toy import batches, toy_model

from callbacks.scaled_rate import ScaledRate, scale_rate

BOTH = pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
SCHEDULES = {
    "cosine": lambda: schedules.CosineAnnealingDecay(0.1, 4),
    "restarts": lambda: schedules.CosineAnnealingWarmRestarts(0.1, 3),
    "cyclic": lambda: schedules.CyclicLR(0.01, 0.1, 3),
    "exponential": lambda: schedules.ExponentialDecay(0.1, 0.9),
    "inverse time": lambda: schedules.InverseTimeDecay(0.1, 0.5),
    "lambda": lambda: schedules.LambdaDecay(0.1, lambda step: 1 / (1 + step)),
    "linear": lambda: schedules.LinearLR(0.1, 8),
    "multiplicative": lambda: schedules.MultiplicativeDecay(0.1, lambda step: 0.9),
    "multi-step": lambda: schedules.MultiStepDecay(0.1, [2, 5]),
    "natural": lambda: schedules.NaturalExpDecay(0.1, 0.1),
    "noam": lambda: schedules.NoamDecay(64, 4),
    "one cycle": lambda: schedules.OneCycleLR(0.1, 12),
    "piecewise": lambda: schedules.PiecewiseDecay([2, 5], [0.1, 0.05, 0.01]),
    "polynomial": lambda: schedules.PolynomialDecay(0.1, 8),
    "step": lambda: schedules.StepDecay(0.1, 3),
    "warm-up": lambda: schedules.LinearWarmup(schedules.CosineAnnealingDecay(0.1, 6), 4, 0.0, 0.1),
}


def model_with(rate, stock=False):
    model = toy_model(stock)
    model.prepare(paddle.optimizer.SGD(rate, parameters=model.parameters()), paddle.nn.CrossEntropyLoss())
    return model


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_goes_on_as_it_would_times_the_factor(schedule):
    plain, model = SCHEDULES[schedule](), model_with(SCHEDULES[schedule]())
    optimizer, factor = model.optimizer, 1.0
    for step in range(10):
        if step in (3, 6):
            scale_rate(model, 0.3)
            factor *= 0.3
        assert optimizer.get_lr() == plain() * factor
        plain.step()
        optimizer._learning_rate.step()
    assert optimizer.state_dict()["LR_Scheduler"] == plain.state_dict()


def test_a_schedule_that_is_told_metrics_or_epochs_still_is():
    plain, model = schedules.ReduceOnPlateau(0.1, patience=1), model_with(schedules.ReduceOnPlateau(0.1, patience=1))
    scale_rate(model, 0.3)
    for loss in (3.0, 2.0, 2.0, 2.0, 2.0, 1.0):
        plain.step(np.float32(loss))
        model.optimizer._learning_rate.step(np.float32(loss))
        assert model.optimizer.get_lr() == plain() * 0.3
    assert plain() < 0.1 and model.optimizer._learning_rate.state_dict() == plain.state_dict()
    jumping = ScaledRate(schedules.StepDecay(0.1, 3), 0.5)
    jumping.step(7)
    assert jumping.last_epoch == 7 and jumping() == schedules.StepDecay(0.1, 3, last_epoch=6)() * 0.5


@pytest.mark.filterwarnings("ignore:There are some unused values")  # Paddle's LinearWarmup warns of its own state
@pytest.mark.parametrize("schedule", ["cosine", "multiplicative", "warm-up"])
@pytest.mark.parametrize("load", ["set_state_dict", "set_dict"])
def test_the_state_is_that_of_the_schedule_itself(schedule, load):
    plain = SCHEDULES[schedule]()
    for _step in range(5):
        plain.step()
    scaled = ScaledRate(SCHEDULES[schedule](), 0.5)
    getattr(scaled, load)(plain.state_dict())
    for _step in range(5):
        assert scaled() == plain() * 0.5
        scaled.step()
        plain.step()


def test_no_factors_leave_the_schedule_alone():
    schedule = SCHEDULES["cosine"]()
    model = model_with(schedule)
    scale_rate(model)
    assert model.optimizer._learning_rate is schedule


def test_a_constant_rate_stays_one():
    model = model_with(0.1)
    scale_rate(model, 0.5)
    scale_rate(model, 0.5)
    assert model.optimizer.get_lr() == 0.025 and "LR_Scheduler" not in model.optimizer.state_dict()
    model.optimizer.set_lr(0.2)
    scale_rate(model, 0.5)
    assert model.optimizer.get_lr() == 0.1


@pytest.mark.parametrize("rate", [lambda: 0.1, SCHEDULES["cosine"]], ids=["constant", "schedule"])
def test_the_rate_does_not_depend_on_the_order_of_the_factors(rate):
    """Two callbacks that scale by turns do so one after the other after a resume."""
    by_turns, one_after_the_other = model_with(rate()), model_with(rate())
    for factor in (0.1, 0.3, 0.1, 0.7, 0.1):
        scale_rate(by_turns, factor)
    scale_rate(one_after_the_other, 0.3, 0.7)
    scale_rate(one_after_the_other, 0.1, 0.1, 0.1)
    assert by_turns.optimizer.get_lr() == one_after_the_other.optimizer.get_lr()


@BOTH
@pytest.mark.parametrize("rate", [float, lambda base: schedules.LambdaDecay(base, lambda step: 1 / (1 + step))])
def test_the_very_next_step_takes_the_scaled_rate(stock, rate):
    trained = []
    for base, factor in ((0.05, None), (0.1, 0.5)):
        model = model_with(rate(base), stock)
        if factor:
            scale_rate(model, factor)
        model.train_batch(*[[part] for part in batches()[0]])
        trained.append(model.network[0].weight.numpy())
    np.testing.assert_array_equal(*trained)


@BOTH
@pytest.mark.parametrize("by_epoch", [False, True])
def test_paddles_own_callback_goes_on_stepping_the_schedule(stock, by_epoch):
    model = model_with(schedules.StepDecay(0.1, 1, 0.5), stock)
    scale_rate(model, 0.25)
    stepping = LRScheduler(by_step=not by_epoch, by_epoch=by_epoch)
    model.fit(batches(), epochs=2, verbose=0, callbacks=[stepping])
    assert model._optimizer.get_lr() == 0.1 * 0.5 ** (2 if by_epoch else 6) * 0.25
