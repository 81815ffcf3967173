"""Training by several processes: who writes, and how all decide alike."""

from __future__ import annotations

import paddle
from paddle import distributed


def is_writer() -> bool:
    """Whether this process, alone or the first of several, writes files and prints."""
    return int(distributed.get_rank()) == 0


def agreed(decision: bool) -> bool:
    """The first process's `decision`, in all of them; to be called by all at the same point."""
    if distributed.get_world_size() == 1:
        return decision
    shared = paddle.to_tensor([int(decision)])
    distributed.broadcast(shared, src=0)
    return bool(shared.item())
