"""What benchmarks of single convolutions share: the layers, and how a program goes through them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.tables import machine_line, report
from benchmarks.worker import warn_if_busy
from cifar_hapi.engine import onednn
from cifar_hapi.engine.memory import Buffer
from cifar_hapi.engine.onednn import Call, Memory, PrimitiveDesc
from cifar_hapi.engine.primitives import Geometry
from cifar_hapi.runtime import apply_settings, threads, versions

LAYERS = (
    *("128:16:16:32", "128:32:32:16", "128:64:64:8"),  # of ResNet-20
    *("128:64:64:32", "128:128:128:16", "128:256:256:8", "128:512:512:4"),  # of ResNet-18
    *("500:24:64:31", "500:64:64:15", "500:64:256:15", "500:256:256:7", "500:256:256:3"),  # of speed94's network
)
SAME = Geometry((3, 3), before=(1, 1), after=(1, 1))


def layer_by_layer(
    description: str | None,
    why_not: str,
    measure: Callable[[int, int, int, int, int], dict[str, Any]],
    show: Callable[[Sequence[dict[str, Any]]], str],
) -> None:
    """A program that measures layers: images, channels in and out, side, and rounds. why_not: "" where it can be."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=LAYERS, metavar="N:IN:OUT:SIDE")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    arguments = parser.parse_args()
    if why_not:
        sys.exit(why_not)
    warn_if_busy()
    apply_settings()
    onednn.set_threads(threads())
    layers = [[int(number) for number in layer.split(":")] for layer in arguments.layers]
    rows = [measure(n, incoming, outgoing, side, arguments.rounds) for n, incoming, outgoing, side in layers]
    report(f"{show(rows)}\n\n{machine_line(versions())}", {"versions": versions(), "rows": rows}, arguments.json)


def add(steps: list[Any], primitive: PrimitiveDesc, memories: Mapping[str, Memory]) -> None:
    scratch = Buffer(primitive.scratchpad).memory
    steps.append(Call(primitive, {**memories, "scratchpad": scratch}))
