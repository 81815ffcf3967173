"""TimeLimit: training ends in time, by a clock that the test turns."""

from __future__ import annotations

import pytest
from toy import play

from callbacks import TimeLimit


def limited(limit, seconds, stock=False, state=None, monitor="eval_loss"):
    """A TimeLimit whose clock moves by `seconds` in each epoch, and how many epochs it let pass."""
    callback, now = TimeLimit(limit), [0.0]
    callback.clock = lambda: now[0]
    if state:
        callback.set_state_dict(state)
    pace = iter(seconds)

    def work(model, epoch):
        now[0] += next(pace)

    return callback, play(callback, [{monitor: 1.0}] * len(seconds), stock, on_epoch=work)


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
@pytest.mark.parametrize("monitor", ["loss", "eval_loss"])
@pytest.mark.parametrize(
    ("limit", "seconds", "epochs"),
    [
        (60, [20, 20, 20, 20], 3),
        ("1 min", [20, 20, 19, 19], 3),
        ("1 min", [20, 21, 5, 5], 2),
        ("0.5 h", [600, 900, 100], 2),
        (10, [30, 1], 1),
        ("2 d", [1, 1], 2),
    ],
)
def test_the_next_epoch_must_fit_in(limit, seconds, epochs, monitor, stock):
    callback, seen = limited(limit, seconds, stock, monitor=monitor)
    assert seen == epochs and (callback.reason is not None) == (epochs < len(seconds))


def test_the_time_before_a_resume_counts():
    first, _ = limited(100, [40])
    second, seen = limited(100, [30, 30], state=first.state_dict())
    assert seen == 1 and second.reason == "70 s of 100 s are spent, and an epoch takes 40 s"


@pytest.mark.parametrize("limit", ["20", "20 weeks", "min", "-3 s", 0, -1, "0 s", "1e3 s"])
def test_limits_that_cannot_be_are_refused(limit):
    with pytest.raises(ValueError, match=r"^TimeLimit: "):
        TimeLimit(limit)
