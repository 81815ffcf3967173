"""The processes that train together: how many there are, which one this is, and what they tell each other.

Every function that communicates must be called by all of them at the same point; with one process none does.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TypeVar

import numpy as np
import paddle
from paddle import distributed

T = TypeVar("T")

_COUNT = "PADDLE_TRAINERS_NUM"  # set by Paddle's launcher


def count() -> int:
    """How many processes train together; 1 unless Paddle's launcher has started this one."""
    return int(distributed.get_world_size())


def rank() -> int:
    """Which of them this is, from 0."""
    return int(distributed.get_rank())


def rank_on_machine() -> int:
    """Which of those on this machine this is, from 0."""
    return int(os.environ.get("PADDLE_LOCAL_RANK", "0"))


def join() -> None:
    """Meet the other processes, once; what communicates needs it."""
    if count() > 1 and not distributed.is_initialized():
        with redirect_stderr(io.StringIO()):  # where it lists Paddle's flags that are not as they come
            distributed.init_parallel_env()


@contextmanager
def unseen_by_paddle() -> Iterator[None]:
    """A `paddle.Model` that is made within it takes itself to be alone.

    Else it wraps its network in `paddle.DataParallel`, which says of itself that it is not for `PyLayer`s, such as the
    oneDNN engine's, takes the mean over processes whatever the share of each, and makes every new model, also one that
    a single process needs, wait for all the others.
    """
    before = os.environ.get(_COUNT)
    if before is None:
        yield
        return
    os.environ[_COUNT] = "1"
    try:
        yield
    finally:
        os.environ[_COUNT] = before


def gathered(value: T) -> list[T]:
    """The `value` of each process, by rank. It travels as JSON, of which nothing can be executed."""
    if count() == 1:
        return [value]
    return [json.loads(text) for text in gathered_bytes(json.dumps(value).encode())]


def gathered_arrays(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The `arrays` of each process, by rank; those of Python objects are refused with a ValueError."""
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    found = []
    for text in gathered_bytes(packed.getvalue()):
        with np.load(io.BytesIO(text), allow_pickle=False) as unpacked:
            found.append(dict(unpacked))
    return found


def gathered_bytes(text: bytes) -> list[bytes]:
    """Those of each process, by rank. Not by Paddle's `all_gather_object`, which executes pickles."""
    if count() == 1:
        return [text]
    lengths: list[paddle.Tensor] = []
    distributed.all_gather(lengths, paddle.to_tensor([len(text)]))
    sizes = [int(length.item()) for length in lengths]
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    found: list[paddle.Tensor] = []
    distributed.all_gather(found, paddle.to_tensor(padded))
    return [each.numpy()[:size].tobytes() for each, size in zip(found, sizes, strict=True)]


def of_the_first(value: T | None) -> T:
    """The first process's `value`, through JSON as of `gathered`; that of the others does not matter."""
    return gathered(value if rank() == 0 else None)[0]  # type: ignore[return-value]


def summed(values: Sequence[float]) -> list[float]:
    """The sums over all processes of numbers that each has in the same order."""
    if count() == 1:
        return list(values)
    total = paddle.to_tensor(np.asarray(values, np.float64))
    distributed.all_reduce(total)
    return total.numpy().tolist()


def add_up(tensors: Sequence[paddle.Tensor]) -> None:
    """Make each of these, of one dtype, the sum over all processes, in place and in one call."""
    if count() == 1 or not tensors:
        return
    with paddle.no_grad():
        together = paddle.concat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(together)
        sums = paddle.split(together, [int(tensor.size) for tensor in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            paddle.assign(total.reshape(tensor.shape), tensor)


def copy_from_the_first(tensors: Iterable[paddle.Tensor]) -> None:
    """Make each of these, in place, what it is in the first process."""
    if count() == 1:
        return
    for tensor in tensors:
        distributed.broadcast(tensor.detach(), src=0)
