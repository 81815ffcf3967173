"""A process that has gone away, or does not answer, told in one line by those that wait for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cifar_hapi.distributed import ranks
from cifar_hapi.errors import CifarHapiError, LostProcess

SILENCE_SECONDS = 30  # that gloo, as Paddle makes it, waits for another process; it cannot be told otherwise

# As the gloo in Paddle's wheel says it (2.6.2, 3.3.1), after "[.../gloo/transport/tcp/pair.cc:584] ": "TIMEOUT
# self_rank = 0 pair_rank = 1 ..." or "Read error [127.0.0.1]:35744: Connection reset by peer", both at once when a
# connection has ended, and "TIMEOUT self_rank = none pair_rank = -1 ..." after the silence.
_GLOO = re.compile(r"gloo/transport/(?:.*pair_rank = (-?\d+))?")


@contextmanager
def departures_told(way_out: str = "start all processes again") -> Iterator[None]:
    """Within it, gloo's exception for another process that is no more there is a LostProcess; `way_out` ends its line.

    How NCCL tells the same is not known here: its exceptions pass as they are.
    """
    try:
        yield
    except CifarHapiError:
        raise
    except Exception as error:  # the type differs: RuntimeError, in a backward pass OSError
        found = _GLOO.search(str(error))
        if not found:
            raise
        whom = {None: "for another process", "-1": ""}.get(found[1], f"for rank {found[1]}")
        gone = f"{whom}, which has gone away" if whom else f"{SILENCE_SECONDS} seconds for another process, in vain"
        raise LostProcess(f"rank {ranks.rank()}: waited {gone}; {way_out}") from error
