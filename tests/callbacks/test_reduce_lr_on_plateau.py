"""ReduceLROnPlateau: Keras 3's decisions, under any schedule."""

from __future__ import annotations

import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.optimizer import lr as schedules
from toy import play, toy_model

from callbacks import ReduceLROnPlateau

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
    assert second.reductions == [(1, 0.05), (2, 0.025), (3, 0.0125)]


def test_the_lowest_rate_is_reached_once():
    plateau = ReduceLROnPlateau("loss", patience=1, factor=0.3, min_lr=0.007)
    model = toy_model()
    model.prepare(
        paddle.optimizer.SGD(schedules.StepDecay(0.1, 100), parameters=model.parameters()), paddle.nn.CrossEntropyLoss()
    )
    play(plateau, [{"loss": 1.0}] * 9, model=model)
    assert [epoch for epoch, _ in plateau.reductions] == [1, 2, 3]
    assert model.optimizer.get_lr() == pytest.approx(0.007)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, NAN]), min_size=2, max_size=9), st.integers(0, 2), st.integers(1, 8))
def test_going_on_from_a_saved_state_decides_the_same(values, cooldown, cut):
    def watched(plateau, records, state=None, first=0):
        if state:
            plateau.set_state_dict(state)
        play(plateau, [{"loss": value} for value in records], first=first)
        return plateau.state_dict()

    options = {"monitor": "loss", "factor": 0.3, "patience": 1, "cooldown": cooldown}
    whole = watched(ReduceLROnPlateau(**options), values)
    if cut < len(values):
        half = watched(ReduceLROnPlateau(**options), values[:cut])
        assert watched(ReduceLROnPlateau(**options), values[cut:], half, cut) == whole


@pytest.mark.parametrize(
    "options", [{"factor": 1.0}, {"factor": 0}, {"patience": -1}, {"cooldown": -1}, {"start_epoch": -1}, {"min_lr": -1}]
)
def test_arguments_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match="ReduceLROnPlateau: factor"):
        ReduceLROnPlateau(**options)
