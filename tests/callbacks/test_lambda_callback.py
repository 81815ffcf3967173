"""LambdaCallback: functions at the moments that both Models know."""

from __future__ import annotations

import pytest
from toy import batches, toy_model

from callbacks import LambdaCallback


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_functions_are_called_at_their_moments(stock):
    seen = []
    callback = LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(("epoch", epoch)),
        on_train_batch_end=lambda step, logs: seen.append(("step", step)),
        on_train_end=lambda logs: seen.append("end"),
    )
    toy_model(stock).fit(batches(), epochs=2, verbose=0, callbacks=[callback])
    steps = [("step", 0), ("step", 1), ("step", 2)]
    assert seen == [*steps, ("epoch", 0), *steps, ("epoch", 1), "end"]


def test_an_unknown_moment_is_told_with_the_nearest():
    with pytest.raises(TypeError, match="on_epoch_ends is no moment; did you mean on_epoch_end"):
        LambdaCallback(on_epoch_ends=print)


def test_what_is_no_function_is_refused_at_once():
    with pytest.raises(TypeError, match="on_epoch_end = None: expected a function"):
        LambdaCallback(on_epoch_end=None)
