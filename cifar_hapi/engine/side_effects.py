"""What a call of a network's `forward` does besides returning something: found, and undone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn


class SideEffect(Exception):
    """A forward pass that draws random numbers, or keeps something in an attribute or a buffer."""


@contextmanager
def undone(network: nn.Layer) -> Iterator[None]:
    """Undo what happens inside to attributes and buffers of `network` and to random states; SideEffect if anything did.

    Not found: what happens elsewhere, such as to a file, or inside an object that is neither layer, list nor dict.
    """
    watched = _Attributes(network), _Buffers(network), _RandomNumbers()
    try:
        yield
    finally:
        effects = [each.undo() for each in watched]
    if any(effects):
        raise SideEffect


class _Attributes:
    """What each layer holds under each name, and what the lists and dictionaries among that hold."""

    def __init__(self, network: nn.Layer):
        spaces = [layer.__dict__ for layer in network.sublayers(include_self=True)]
        inside = [value for space in spaces for value in space.values() if isinstance(value, dict | list)]
        self._held = [(container, container.copy()) for container in [*spaces, *inside]]

    def undo(self) -> bool:
        changed = [(now, start) for now, start in self._held if not _same(now, start)]
        for now, start in changed:
            if isinstance(now, list):
                now[:] = start
                continue
            for name in now.keys() - start.keys():
                del now[name]
            now.update(start)
        return bool(changed)


def _same(one: Any, other: Any) -> bool:
    """Whether two containers hold the same objects; some, such as tensors, cannot be compared by ==."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(one[name] is other[name] for name in one)
    return len(one) == len(other) and all(mine is yours for mine, yours in zip(one, other, strict=True))


class _Buffers:
    """The values of all buffers."""

    def __init__(self, network: nn.Layer):
        self._start = [(buffer, buffer.numpy().copy()) for buffer in network.buffers()]

    def undo(self) -> bool:
        changed = [(buffer, start) for buffer, start in self._start if buffer.numpy().tobytes() != start.tobytes()]
        for buffer, start in changed:
            buffer.set_value(start)
        return bool(changed)


class _RandomNumbers:
    """Those of Python, of NumPy and of Paddle. Paddle's states cannot be compared, so the numbers that follow are."""

    def __init__(self) -> None:
        self._states = random.getstate(), np.random.get_state(), paddle.get_rng_state()
        self._next = self._draw()
        self._set_states()

    def undo(self) -> bool:
        following = self._draw()
        self._set_states()
        return following != self._next

    def _draw(self) -> tuple[Any, ...]:
        return random.random(), np.random.random(), paddle.rand([2]).tolist()

    def _set_states(self) -> None:
        python, numpy, of_paddle = self._states
        random.setstate(python)
        np.random.set_state(numpy)
        paddle.set_rng_state(of_paddle)
