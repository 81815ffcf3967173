"""ReduceLROnPlateau: Keras 3's decisions, under any schedule."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.optimizer import lr as schedules
from toy import batches, play, toy_model

from callbacks import ReduceLROnPlateau
from callbacks.scaled_rate import scale_rate

NAN = float("nan")


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
@pytest.mark.parametrize("monitor", ["loss", "eval_loss"])
@pytest.mark.parametrize(
    ("options", "values", "reduced"),
    [
        ({"patience": 1}, [3, 2, 2, 1], [2]),
        ({"patience": 2}, [3, 3, 3, 3, 3], [2, 4]),
        ({"patience": 2}, [3, 3, 2, 3, 3], [4]),
        ({"patience": 1, "cooldown": 2}, [3, 3, 3, 3, 3, 3], [1, 3, 5]),
        ({"patience": 1, "cooldown": 1}, [3, 3, 3, 3], [1, 2, 3]),
        ({"patience": 1, "start_epoch": 2}, [3, 3, 3, 3], [3]),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.75, 2], [1]),
        ({"patience": 1, "mode": "max"}, [1, 2, 1], [2]),
        ({"patience": 1}, [3, NAN, 2], [1]),
        ({"patience": 1, "factor": 0.5, "min_lr": 0.04}, [3, 3, 3, 3], [1, 2]),
    ],
)
def test_it_reduces_as_keras_does(options, values, reduced, monitor, stock):
    plateau = ReduceLROnPlateau(monitor, **options)
    play(plateau, [{monitor: value} for value in values], stock)
    assert [epoch for epoch, _ in plateau.reductions] == reduced
    factor, floor = options.get("factor", 0.1), options.get("min_lr", 0.0)
    rates = [max(0.1 * factor ** (count + 1), floor) for count in range(len(reduced))]
    assert [rate for _, rate in plateau.reductions] == pytest.approx(rates)


SCHEDULES = {
    "cosine": lambda: schedules.CosineAnnealingDecay(0.1, 8),
    "multiplicative": lambda: schedules.MultiplicativeDecay(0.1, lambda step: 0.9),
    "lambda": lambda: schedules.LambdaDecay(0.1, lambda step: 1 / (1 + step)),
    "piecewise": lambda: schedules.PiecewiseDecay([2, 5], [0.1, 0.05, 0.01]),
    "warm-up": lambda: schedules.LinearWarmup(schedules.StepDecay(0.1, 3), 4, 0.0, 0.1),
    "one cycle": lambda: schedules.OneCycleLR(0.1, 12),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_goes_on_as_it_would_times_the_factor(schedule):
    plain, scaled = SCHEDULES[schedule](), SCHEDULES[schedule]()
    model = toy_model()
    model.prepare(paddle.optimizer.SGD(scaled, parameters=model.parameters()), paddle.nn.CrossEntropyLoss())
    factor = 1.0
    for step in range(10):
        if step in (3, 6):
            scale_rate(model, 0.5)
            factor *= 0.5
        assert model.optimizer.get_lr() == plain() * factor
        plain.step()
        model.optimizer._learning_rate.step()
    assert model.optimizer.state_dict()["LR_Scheduler"] == plain.state_dict()


def test_the_very_next_step_takes_the_scaled_rate():
    model = toy_model()
    model.prepare(
        paddle.optimizer.SGD(SCHEDULES["lambda"](), parameters=model.parameters()), paddle.nn.CrossEntropyLoss()
    )
    weight = model.network[0].weight
    scale_rate(model, 0.0)
    before = weight.numpy()
    model.train_batch(*[[part] for part in batches()[0]])
    np.testing.assert_array_equal(weight.numpy(), before)


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_after_a_resume_the_schedule_is_scaled_again(stock):
    def model_with_schedule():
        model = toy_model(stock)
        rate = schedules.StepDecay(0.1, 100)
        model.prepare(paddle.optimizer.SGD(rate, parameters=model.parameters()), paddle.nn.CrossEntropyLoss())
        return model

    first = ReduceLROnPlateau("eval_loss", factor=0.5, patience=1)
    play(first, [{"eval_loss": 1.0}] * 3, stock, model_with_schedule())
    second, model = ReduceLROnPlateau("eval_loss", factor=0.5, patience=1), model_with_schedule()
    second.set_state_dict(first.state_dict())
    play(second, [{"eval_loss": 1.0}], stock, model, first=3)
    assert model._optimizer.get_lr() == 0.1 * 0.5**3


@pytest.mark.parametrize("options", [{"factor": 1.0}, {"factor": 0}, {"patience": -1}, {"cooldown": -1}])
def test_arguments_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match="ReduceLROnPlateau: factor"):
        ReduceLROnPlateau(**options)
