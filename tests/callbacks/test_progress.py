"""Progress: plain lines where the output is no terminal, a bar that leaves no trace where it is one."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from toy import batches, toy_model

from callbacks import Progress


def shown(terminal, stock=False, width=100, every_seconds=30.0, **options):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=width, color_system=None, legacy_windows=False)
    progress = Progress(every_seconds, console)
    toy_model(stock).fit(batches(), batches(), epochs=2, verbose=0, callbacks=progress, **options)
    return text.getvalue()


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_one_plain_line_an_epoch(stock):
    lines = shown(terminal=False, stock=stock).splitlines()
    metrics = r"  loss \d\.\d{4}  acc \d\.\d{4}  eval_loss \d\.\d{4}  eval_acc \d\.\d{4}  \d+:\d\d  \d+ images/s"
    assert [bool(re.fullmatch(rf"epoch {number}/2{metrics}", line)) for number, line in enumerate(lines, 1)] == [
        True
    ] * 2


def test_plain_lines_within_an_epoch_tell_all():
    first = shown(terminal=False, every_seconds=0.0).splitlines()[0]
    assert re.fullmatch(
        r"epoch 1/2  step 1/3  ETA \d+:\d\d  \d+ images/s  loss \d\.\d{4}  acc \d\.\d{4}  lr 0\.1", first
    ), first


@pytest.mark.parametrize("width", [30, 60, 200])
def test_a_terminal_gets_its_cursor_back(width):
    text = shown(terminal=True, width=width)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "epoch 2/2" in text.replace("\n", " ")


def test_a_terminal_gets_its_cursor_back_after_an_error():
    class Failing(Progress):
        def on_train_batch_end(self, step, logs=None):
            raise KeyboardInterrupt

    text = io.StringIO()
    progress = Failing(console=Console(file=text, force_terminal=True, width=80))
    with pytest.raises(KeyboardInterrupt):
        toy_model().fit(batches(), verbose=0, callbacks=progress)
    assert text.getvalue().count("\x1b[?25h") == 1


def test_a_loader_of_unknown_length_has_no_time_left():
    text = io.StringIO()
    toy_model().fit(iter(batches()), verbose=0, callbacks=Progress(0.0, Console(file=text, width=100)))
    assert text.getvalue().startswith("epoch 1/1  step 1/?  ETA ?  ")
