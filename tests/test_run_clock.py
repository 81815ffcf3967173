"""The seconds of a run that may be killed at any moment."""

from __future__ import annotations

import pytest

from cifar_hapi import run_clock
from cifar_hapi.run_clock import RunClock


class ToldRun:
    """Of a run all that the clock asks for; it has 100 seconds behind it."""

    path = "runs/mine"

    def __init__(self):
        self.told = []

    def recorded(self, key, kind):
        return 100.0

    def update(self, seconds):
        self.told.append(seconds)


@pytest.fixture
def now(monkeypatch):
    """The time, in a list that may be changed."""
    time = [1000.0]
    monkeypatch.setattr(run_clock.time, "perf_counter", lambda: time[0])
    return time


def test_seconds_are_written_each_minute_and_after_each_epoch(now):
    run = ToldRun()
    clock = RunClock(run)
    for seconds in (30, 59, 61, 90, 122):
        now[0] = 1000 + seconds
        clock.on_train_batch_end(0)
    assert run.told == [161, 222]
    now[0] = 1130
    clock.on_epoch_end(0)
    assert run.told == [161, 222, 230]


def test_a_full_disk_is_warned_of(now, monkeypatch):
    def full(self, seconds):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ToldRun, "update", full)
    with pytest.warns(UserWarning, match="runs/mine: run.json not written: No space left on device; training goes on"):
        RunClock(ToldRun()).on_epoch_end(0)
