"""What is told of a process that has gone away."""

from __future__ import annotations

import pytest

from cifar_hapi import LostProcess, RunError
from cifar_hapi.distributed.departures import departures_told

PAIR = "[/paddle/third_party/gloo/gloo/transport/tcp/pair.cc:584]"
BUFFER = "[/paddle/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:80]"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"{PAIR} TIMEOUT self_rank = 0 pair_rank = 3 peer_str = [127.0.0.1]:26531", "for rank 3, which has gone away"),
        (f"{PAIR} Read error [::1]:35744: Connection reset by peer", "for another process, which has gone away"),
        (
            f"(External) in a layer:\n{PAIR} Read error [::1]:35744: Connection reset by peer\n",
            "for another process, which has gone away",
        ),
        (
            f"{BUFFER} TIMEOUT self_rank = none pair_rank = -1 peer_str = none",
            "30 seconds for another process, in vain",
        ),
    ],
)
@pytest.mark.parametrize("kind", [RuntimeError, OSError])
def test_what_gloo_says_becomes_a_line(said, told, kind):
    with pytest.raises(LostProcess) as caught, departures_told("begin anew"):
        raise kind(said)
    assert str(caught.value) == f"rank 0: waited {told}; begin anew"
    assert caught.value.exit_code == 5


def test_the_innermost_way_out_is_told():
    with pytest.raises(LostProcess, match=r"; inner$"), departures_told("outer"), departures_told("inner"):
        raise RuntimeError(f"{PAIR} Read error [::1]:1: Connection reset by peer")


@pytest.mark.parametrize(
    "error", [RuntimeError("no room"), RunError("of a folder gloo/transport/x"), KeyboardInterrupt()]
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, departures_told():
        raise error
    assert caught.value is error
