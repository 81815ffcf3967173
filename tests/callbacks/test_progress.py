"""Progress: plain lines where the output is no terminal, a bar that leaves no trace where it is one."""

from __future__ import annotations

import io
import re
import threading
from types import SimpleNamespace

import paddle
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


@pytest.fixture
def clock(monkeypatch):
    """The time that Progress sees; it stands still but for what is added to `now`."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("callbacks.progress.time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def timed(clock, seconds_of_steps, resumed_after=None, **params):
    """The lines of a training whose steps of 8 images take so many seconds, in lists by epoch."""
    text = io.StringIO()
    progress = Progress(0.0, Console(file=text, width=100))
    progress.set_model(toy_model())
    progress.set_params(params)
    if resumed_after is not None:
        progress.set_state_dict({"epochs": resumed_after})
    progress.on_train_begin({})
    for epoch, steps in enumerate(seconds_of_steps, params.get("initial_epoch", 0)):
        progress.on_epoch_begin(epoch, {})
        for step, seconds in enumerate(steps):
            progress.on_train_batch_begin(step, {})
            clock.now += seconds
            progress.on_train_batch_end(step, {"loss": [1.0], "batch_size": 8})
        progress.on_epoch_end(epoch, {"loss": 1.0})
        clock.now += 50
    progress.on_train_end({})
    return text.getvalue().splitlines()


def test_images_a_second_leave_out_the_first_step(clock):
    lines = timed(clock, [[16, 1, 1], [2, 1, 1]], epochs=2, steps=3)
    speeds = [re.search(r"(\S+) images/s", line)[1] for line in lines]
    assert speeds == ["0.5", "8", "8", "8", "4", "5.3", "6", "6"]
    assert lines[3].endswith("0:18  8 images/s") and lines[7].endswith("0:04  6 images/s")


def test_an_epoch_of_one_step_has_no_other_to_count(clock):
    assert timed(clock, [[4], [2]], epochs=2, steps=1)[1::2] == [
        "epoch 1/2  loss 1.0000  0:04  2 images/s",
        "epoch 2/2  loss 1.0000  0:02  4 images/s",
    ]


def test_time_left_is_that_of_the_steps_that_are_left_at_the_pace_of_those_after_the_first(clock):
    lines = timed(clock, [[20, 2, 4, 3]], epochs=2, steps=10)
    assert [line.split("ETA ")[1].split()[0] for line in lines[:4]] == ["6:20", "0:36", "0:51", "0:48"]


def test_time_left_after_a_resume_counts_what_this_process_does(clock):
    lines = timed(clock, [[10, 1]], epochs=4, steps=10, initial_epoch=2, initial_step=5)
    assert lines[0].startswith("epoch 3/4") and "ETA 2:20" in lines[0] and "ETA 0:13" in lines[1]


def test_paddles_own_fit_counts_on_after_a_resume(clock):
    lines = timed(clock, [[1, 1], [1, 1]], resumed_after=3, epochs=2, steps=2)
    assert [line.split("  ")[0] for line in lines] == ["epoch 4/5"] * 3 + ["epoch 5/5"] * 3


def test_a_notebook_gets_plain_lines_and_needs_no_widgets(monkeypatch, recwarn):
    shown_there = []
    monkeypatch.setattr("rich.jupyter.display", lambda segments, text: shown_there.append(text))
    progress = Progress(console=Console(force_jupyter=True, force_terminal=True, color_system=None))
    toy_model().fit(batches(), epochs=2, verbose=0, callbacks=progress)
    assert [text.split("  ")[0] for text in shown_there] == ["epoch 1/2", "epoch 2/2"]
    assert not [each for each in recwarn if "ipywidgets" in str(each.message)]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None, _environ={"TERM": "dumb"})
    toy_model().fit(batches(), verbose=0, callbacks=Progress(0.0, console))
    assert "\x1b" not in text.getvalue()
    assert text.getvalue().count("epoch 1/1  step ") == 3


@pytest.mark.parametrize("terminal", [False, True])
def test_only_the_first_process_prints(monkeypatch, terminal):
    monkeypatch.setattr("callbacks.progress.is_writer", lambda: False)
    assert shown(terminal, every_seconds=0.0) == ""


def test_no_thread_draws():
    class Counts(paddle.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            counts.add(threading.active_count())

    counts, before = set(), threading.active_count()
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    toy_model().fit(batches(), verbose=0, callbacks=[Progress(console=console), Counts()])
    assert counts == {before}


def test_a_metric_may_have_brackets_in_its_name():
    text = io.StringIO()
    progress = Progress(console=Console(file=text, width=100))
    progress.set_model(toy_model())
    progress.set_params({"epochs": 1, "evaluates_within_epoch": True})
    progress.on_train_begin({})
    progress.on_epoch_begin(0, {})
    progress.on_epoch_end(0, {"f1[macro]": 0.5})
    assert "f1[macro] 0.5000" in text.getvalue()
