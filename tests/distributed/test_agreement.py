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


def test_one_process_has_no_thread(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", None)
    with refused_together():
        pass
