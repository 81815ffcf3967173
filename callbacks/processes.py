"""Training by several processes: who writes, and how all decide alike."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import distributed


def is_writer() -> bool:
    """Whether this process, alone or the first of several, writes files and prints."""
    return int(distributed.get_rank()) == 0


def is_alone() -> bool:
    """Whether this process trains alone."""
    return int(distributed.get_world_size()) == 1


def agreed(decision: bool) -> bool:
    """The first process's `decision`, in all of them; to be called by all at the same point."""
    if is_alone():
        return decision
    shared = paddle.to_tensor([int(decision)])
    distributed.broadcast(shared, src=0)
    return bool(shared.item())


def heard(model: Any, signal: int) -> int:
    """The signal by which all processes are to end, or 0; to be called by all at the same point.

    signal: that this process has been sent, or 0. A model that asks its callbacks in the sum of each step
    (`cifar_hapi.Model`) has the answer as `ending`; for any other, it is the highest over all.
    """
    if is_alone():
        return signal
    ending = getattr(model, "ending", None)
    return highest(signal) if ending is None else int(ending)


def highest(number: int) -> int:
    """The highest of all processes' numbers; to be called by all at the same point."""
    if is_alone():
        return number
    shared = paddle.to_tensor([number])
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return int(shared.item())
