"""How processes wait for one that takes its time."""

from __future__ import annotations

import threading

import pytest

from cifar_hapi.distributed import agreement, ranks
from cifar_hapi.distributed.agreement import refused_together


@pytest.fixture
def two(monkeypatch):
    """Another process beside this one; `answers`: whether it is done, beat by beat, and what this one has said."""
    answers, said = [], []

    def summed(values):
        said.append(bool(values[0]))
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return [values[0] + found]

    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "summed", summed)
    monkeypatch.setattr(ranks, "gathered", lambda value: [value, None])
    return answers, said


def test_what_is_quick_takes_one_beat(two):
    answers, said = two
    answers.append(True)
    with refused_together():
        pass
    assert said == [True]


def test_a_slow_process_is_waited_for(two):
    answers, said = two
    answers += [False, False, True]
    with refused_together():
        pass
    assert said == [True, True, True]


def test_the_others_hear_of_a_slow_process_that_it_lives(two, monkeypatch):
    answers, said = two
    monkeypatch.setattr(agreement, "_BEAT_SECONDS", 0.001)
    answers += [False, True, True, *[True] * 1000]
    heard = threading.Event()
    summed = ranks.summed

    def counted(values):
        if len(said) == 2:
            heard.set()
        return summed(values)

    monkeypatch.setattr(ranks, "summed", counted)
    with refused_together():
        assert heard.wait(10)
    assert said[:2] == [False, False] and said[-1]


def test_one_that_is_gone_meanwhile_is_told(two):
    answers, _ = two
    answers += [False, RuntimeError("gone")]
    with pytest.raises(RuntimeError, match="gone"), refused_together():
        pass


def test_one_that_leaves_by_ctrl_c_is_not_said_to_live(two, monkeypatch):
    answers, _ = two
    monkeypatch.setattr(agreement, "_BEAT_SECONDS", 0.001)
    answers += [False] * 100_000
    with pytest.raises(KeyboardInterrupt), refused_together():
        raise KeyboardInterrupt
    for thread in threading.enumerate():
        if isinstance(thread, agreement._Beating):
            thread.join(10)
            assert not thread.is_alive()


def test_one_process_has_no_thread(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", None)
    with refused_together():
        pass
