"""Batches: which images share one, and that each gets its own answer."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hapi.serving.batching import Batcher


class Network:
    """Answers with an image's first value; waits for `go` where that is not set; notes its batches."""

    def __init__(self):
        self.batches, self.go, self.busy, self.open = [], threading.Event(), threading.Event(), False
        self.go.set()

    @contextmanager
    def opened(self):
        self.open = True
        yield self.classify
        self.open = False

    def classify(self, images):
        self.busy.set()
        assert self.go.wait(10)
        if (images == 255).any():
            raise ArithmeticError("overflow")
        self.batches.append(images[:, 0].tolist())
        return images[:, :1].astype(float)


def image(value):
    return np.full(1, value, np.uint8)


def batcher(network, most=4, seconds=0.0, expected=lambda: 100):
    return Batcher(network.opened, most, seconds, expected)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 254), max_size=30), st.integers(1, 9))
def test_each_image_gets_its_own_answer_in_batches_that_are_not_too_large(values, most):
    network = Network()
    with batcher(network, most) as found:
        answers = [found.submit(image(value)) for value in values]
        assert [answer.result(10).probabilities[0] for answer in answers] == values
    assert [value for batch in network.batches for value in batch] == values
    assert max(map(len, network.batches), default=0) <= most
    assert not network.open and not found.alive


def test_what_waits_while_the_network_is_busy_is_one_batch():
    network = Network()
    network.go.clear()
    with batcher(network) as found:
        first = found.submit(image(0))
        assert network.busy.wait(10)
        others = [found.submit(image(value)) for value in (1, 2, 3)]
        network.go.set()
        answers = [each.result(10) for each in (first, *others)]
    assert network.batches == [[0], [1, 2, 3]]
    assert [each.batch for each in answers] == [1, 3, 3, 3] and all(each.waited >= 0 for each in answers)


@pytest.mark.parametrize(("expected", "together"), [(2, True), (1, False)])
def test_the_first_waits_for_those_that_are_expected_and_no_longer(expected, together):
    network = Network()
    with batcher(network, seconds=10.0 if together else 100.0, expected=lambda: expected) as found:
        first = found.submit(image(0))
        if not together:
            first.result(10)
        answers = [first.result(20) if not together else None, found.submit(image(1)).result(20)]
    assert answers[-1].batch == (2 if together else 1)


def test_an_error_is_that_of_its_batch_alone():
    network = Network()
    with batcher(network) as found:
        with pytest.raises(ArithmeticError, match="overflow"):
            found.submit(image(255)).result(10)
        assert found.submit(image(1)).result(10).probabilities[0] == 1


def test_who_has_left_is_left_out():
    network = Network()
    network.go.clear()
    with batcher(network) as found:
        first = found.submit(image(0))
        assert network.busy.wait(10)
        left, stays = found.submit(image(1)), found.submit(image(2))
        assert left.cancel()
        network.go.set()
        assert first.result(10) and stays.result(10).batch == 1
    assert network.batches == [[0], [2]]


def test_what_waits_at_the_end_is_answered():
    network = Network()
    network.go.clear()
    with batcher(network) as found:
        answers = [found.submit(image(value)) for value in range(9)]
        network.go.set()
    assert [answer.result(0).probabilities[0] for answer in answers] == list(range(9))


def test_a_network_that_cannot_be_opened_is_told():
    @contextmanager
    def opened():
        raise ValueError("no weights")
        yield

    with pytest.raises(ValueError, match="no weights"), Batcher(opened, 1, 0.0, lambda: 0):
        pass
