"""TimeLimit: training ends in time, by a clock that the test turns."""

from __future__ import annotations

import pytest
from toy import batches, play, toy_model

from callbacks import LambdaCallback, TimeLimit


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


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
@pytest.mark.parametrize("monitor", ["loss", "eval_loss"])
def test_a_training_that_ends_anyway_was_not_ended_by_the_clock(stock, monitor):
    callback, seen = limited(100, [60, 60], stock, monitor=monitor)
    assert seen == 1 and callback.reason
    callback, seen = limited(100, [60], stock, monitor=monitor)
    assert seen == 1 and callback.reason is None


def test_the_time_of_an_epoch_that_is_not_complete_counts_too():
    """A checkpoint is taken in the midst of each epoch."""
    states, now, pace = [], [0.0], iter([10, 25, 5])

    class Saved(TimeLimit):
        def on_train_batch_end(self, step, logs=None):
            states.append(self.state_dict())

    def work(model, epoch):
        now[0] += next(pace)

    callback = Saved(1000)
    callback.clock = lambda: now[0]
    play(callback, [{"loss": 1.0}] * 3, on_epoch=work)
    assert [(each["seconds"], each["longest_seconds"]) for each in states] == [(10, 0), (35, 10), (40, 25)]
    now[0] += 99
    assert callback.state_dict()["seconds"] == 40


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_evaluation_and_what_others_do_between_epochs_belong_to_them(stock):
    callback, now = TimeLimit(98), [0.0]
    callback.clock = lambda: now[0]

    def wait(*arguments):
        now[0] += 1

    busy = LambdaCallback(
        on_train_batch_end=wait, on_eval_batch_end=wait, on_epoch_begin=lambda *arguments: [wait() for _ in range(27)]
    )
    toy_model(stock).fit(batches(), batches(), epochs=9, verbose=0, callbacks=[busy, callback])
    assert now[0] == 66 and callback.reason == "66 s of 98 s are spent, and an epoch takes 33 s"


@pytest.mark.parametrize("limit", ["20", "20 weeks", "min", "-3 s", 0, -1, "0 s", "1e3 s"])
def test_limits_that_cannot_be_are_refused(limit):
    with pytest.raises(ValueError, match=r"^TimeLimit: "):
        TimeLimit(limit)
