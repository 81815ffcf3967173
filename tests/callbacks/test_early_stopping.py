"""EarlyStopping: Keras 3's decisions, by tables of values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import batches, play, toy_model

from callbacks import EarlyStopping

NAN = float("nan")


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
@pytest.mark.parametrize("monitor", ["loss", "eval_loss"])
@pytest.mark.parametrize(
    ("options", "values", "epochs", "best_epoch"),
    [
        ({"patience": 0}, [3, 2, 2, 1], 3, 1),
        ({"patience": 0}, [3, 3], 2, 0),
        ({"patience": 1}, [3, 2, 2, 1], 3, 1),
        ({"patience": 2}, [3, 2, 2, 1, 1, 1], 6, 3),
        ({"patience": 2}, [3, 2, 4, 5, 1], 4, 1),
        ({"patience": 9}, [1, 2, 3], 3, 0),
        ({"patience": 2, "mode": "max"}, [1, 3, 2, 2, 9], 4, 1),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.75, 2.5, 2], 3, 0),
        ({"patience": 2, "min_delta": 0.5}, [3, 2, 1.75, 1, 0.75, 0.75], 6, 3),
        ({"patience": 2, "baseline": 2.5}, [4, 3.5, 3, 2], 4, 3),  # each is the best so far: none ends it
        ({"patience": 2, "baseline": 2.5}, [4, 3.5, 3, 3], 4, 2),  # but patience was over
        ({"patience": 1, "baseline": 2.5}, [4, 4, 3], 2, 0),
        ({"patience": 3, "baseline": 2.5}, [4, 2, 3, 3, 3], 5, 1),
        ({"patience": 1, "start_epoch": 2}, [1, 5, 4, 4, 3], 4, 2),
        ({"patience": 2}, [NAN, 3, NAN, 2, NAN, NAN, 1], 6, 3),
        ({"patience": 2}, [NAN, NAN, NAN], 2, None),
        ({"patience": 1}, [NAN, 2, 1], 3, 2),
    ],
)
def test_it_stops_as_keras_does(options, values, epochs, best_epoch, monitor, stock):
    stopping = EarlyStopping(monitor, **options)
    seen = play(stopping, [{monitor: value} for value in values], stock)
    assert (seen, stopping.best_epoch) == (epochs, best_epoch)
    assert stopping.best == (None if best_epoch is None else values[best_epoch])
    stopped = epochs < len(values) or stopping.reason is not None
    assert stopping.stopped_epoch == (epochs - 1 if stopped else None)


def test_the_reason_is_a_sentence():
    stopping = EarlyStopping("eval_loss", patience=2)
    play(stopping, [{"eval_loss": value} for value in (0.5, 0.4321, 0.5, 0.6)])
    assert stopping.reason == "eval_loss has not got better for 2 epochs; best 0.4321 after epoch 2"
    play(stopping, [{"eval_loss": 0.5}] * 2)
    assert stopping.reason is None and stopping.best == 0.5
    stopping = EarlyStopping("eval_loss", patience=1, baseline=0.1)
    play(stopping, [{"eval_loss": value} for value in (0.5, 0.4, 0.4)])
    about = "eval_loss has not got better than the best and the baseline of 0.1 for 3 epochs; best 0.4000 after epoch 2"
    assert stopping.reason == about


def test_one_that_had_stopped_and_goes_on_has_not_stopped():
    first, second = EarlyStopping("loss", patience=1), EarlyStopping("loss", patience=1)
    play(first, [{"loss": 1.0}, {"loss": 1.0}])
    assert first.stopped_epoch == 1
    second.set_state_dict(first.state_dict())
    play(second, [{"loss": 0.5}], first=2)
    assert (second.stopped_epoch, second.reason, second.best_epoch) == (None, None, 2)


def set_all(model, epoch):
    for tensor in model.network.state_dict().values():
        tensor.set_value(np.full(tensor.shape, epoch, "float32"))


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
@pytest.mark.parametrize("monitor", ["loss", "eval_loss"])
@pytest.mark.parametrize(("values", "restored"), [([3, 1, 2, 2, 0], 1), ([3, 2, 1], 2), ([1, 2], 0)])
def test_weights_and_statistics_of_the_best_epoch_come_back(values, restored, monitor, stock):
    model = toy_model(stock)
    stopping = EarlyStopping(monitor, patience=2, restore_best=True)
    play(stopping, [{monitor: value} for value in values], stock, model, on_epoch=set_all)
    assert {float(tensor.numpy().ravel()[0]) for tensor in model.network.state_dict().values()} == {float(restored)}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([1.0, 2.0, 3.0, NAN]), min_size=2, max_size=8),
    st.integers(0, 3),
    st.integers(1, 7),
    st.sampled_from([None, 2.5]),
)
def test_going_on_from_a_saved_state_decides_the_same(values, patience, cut, baseline):
    records = [{"eval_loss": value} for value in values]
    options = {"patience": patience, "baseline": baseline, "restore_best": True}
    whole, model = EarlyStopping("eval_loss", **options), toy_model()
    seen = play(whole, records, model=model, on_epoch=set_all)
    if cut >= seen:
        return
    first, again = EarlyStopping("eval_loss", **options), toy_model()
    play(first, records[:cut], model=again, on_epoch=set_all)
    second = EarlyStopping("eval_loss", **options)
    second.set_state_dict(first.state_dict())
    assert cut + play(second, records[cut:], model=again, first=cut, on_epoch=set_all) == seen
    assert second.best_epoch == whole.best_epoch and second.reason == whole.reason
    for name, tensor in model.network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), again.network.state_dict()[name].numpy())


@pytest.mark.parametrize("state", [{}, {"epochs": -1}, {"epochs": 1, "best": "x"}, {"epochs": "1"}])
def test_a_state_of_something_else_is_refused(state):
    whole = {"epochs": 0, "best": None, "best_epoch": None, "wait": 0, "stopped_epoch": None, "weights": {}}
    with pytest.raises(ValueError, match="state of EarlyStopping: "):
        EarlyStopping().set_state_dict({**whole, **state} if state else {})


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_a_real_training_stops_and_restores(stock):
    model = toy_model(stock, lr=5.0)  # far too high: it soon gets worse
    stopping = EarlyStopping("eval_loss", patience=2, restore_best=True)
    model.fit(batches(), batches(), epochs=60, verbose=0, callbacks=[stopping])
    found = model.evaluate(batches(), verbose=0)
    if not stock:  # Paddle's own evaluate gives the last batch's loss
        assert found["loss"] == pytest.approx(stopping.best)
    assert stopping.reason and stopping.stopped_epoch == stopping.best_epoch + 2


def test_processes_that_see_other_values_do_what_the_first_does(monkeypatch):
    """They ask each other equally often, too: else they would wait for each other forever."""
    said, heard = [], []

    def of_the_first(decision):
        said.append(decision)
        return decision

    def of_another(decision):
        heard.append(decision)
        return said[len(heard) - 1]

    found = []
    for agreed, values in ((of_the_first, [3, 2, 2, 1, 1, 1]), (of_another, [3, 4, NAN, 5, 0, -1])):
        monkeypatch.setattr("callbacks.watch.agreed", agreed)
        stopping = EarlyStopping("loss", patience=2, baseline=2.5)
        found.append((play(stopping, [{"loss": value} for value in values]), stopping.best_epoch))
    assert found == [(6, 3), (6, 3)] and len(heard) == len(said)
