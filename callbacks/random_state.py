"""The state of the random numbers that a training draws, as JSON.

Paddle's own generator can't be saved without pickle (3.3) or at all (2.6), so it is seeded afresh at each step instead.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle


def capture() -> dict[str, Any]:
    """The state of Python's and NumPy's global generators."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    numpy_state = [kind, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)]
    return {"python": [version, list(words), gauss], "numpy": numpy_state}


def restore(state: dict[str, Any]) -> None:
    """Put back what `capture` gave. Raises ValueError for anything else."""
    try:
        version, words, gauss = state["python"]
        kind, keys, position, has_gauss, cached = state["numpy"]
        random.setstate((version, tuple(words), gauss))
        np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, cached))
    except (TypeError, LookupError, OverflowError, ValueError) as error:
        raise ValueError(f"state of random numbers: {error}") from None


@contextmanager
def undrawn() -> Iterator[None]:
    """What is drawn inside, by a loader that shuffles or a layer, Paddle's included, is drawn again after it."""
    drawn, drawn_by_paddle = capture(), paddle.get_rng_state()
    try:
        yield
    finally:
        restore(drawn)
        paddle.set_rng_state(drawn_by_paddle)


def seed_step(seed: int, step: int) -> None:
    """Make what Paddle draws in `step` a function of the training's seed, the step and the rank alone."""
    stream = np.random.SeedSequence(seed, spawn_key=(step, int(paddle.distributed.get_rank())))
    paddle.seed(int(stream.generate_state(1, np.uint64)[0]) >> 1)
