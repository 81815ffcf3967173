"""3x3 convolutions in float32, forward and backward: oneDNN's direct ones beside Winograd's, layer by layer.

    python -m benchmarks.winograd
    python -m benchmarks.winograd --layers 128:64:256:15 128:512:512:4    (images, channels in and out, side)

Both take turns in this process; each time is that of the steps that an engine program has for the layer, the weights'
own transforms included. By these figures `cifar_hapi/engine/winograd.py` chooses which layers it is used for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.layers import SAME, add, layer_by_layer
from benchmarks.tables import markdown_table
from benchmarks.timing import Spread, timed
from cifar_hapi.engine import winograd
from cifar_hapi.engine.memory import Buffer, BufferPool
from cifar_hapi.engine.onednn import Desc, Memory
from cifar_hapi.engine.primitives import Convolution, reorder
from cifar_hapi.engine.winograd import WinogradConvolution

NO_COMPILER = "cifar-hapi was installed without a C compiler: install one, then pip install it again"
Directions = dict[str, list[Any]]  # the steps of each


def main() -> None:
    layer_by_layer(__doc__, "" if winograd.available() else NO_COMPILER, measure, show)


def measure(n: int, incoming: int, outgoing: int, side: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of both ways in both directions, and whether the engine would take the second."""
    draw = np.random.default_rng(0).standard_normal
    x, y, gx, gy = (Buffer(Desc((n, channels, side, side))) for channels in (incoming, outgoing) * 2)
    for each in (x, gy):
        each.floats()[:] = draw(each.floats().size, "float32")
    kernels = Desc((outgoing, incoming, 3, 3), "float32", "oihw")
    weights, gradient = (Memory(kernels, draw((outgoing, incoming, 3, 3), "float32")) for _ in range(2))
    ways = {
        "direct": direct(x, y, gx, gy, weights, gradient),
        "winograd": by_winograd(x, y, gx, gy, weights, gradient),
    }
    found: dict[str, Any] = {"layer": [n, incoming, outgoing, side], "taken": winograd.pays(x.desc, y.desc, SAME)}
    samples: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for way, directions in ways.items():
            for direction, steps in directions.items():
                seconds = timed(lambda steps=steps: [step.run() for step in steps])
                samples.setdefault((way, direction), []).extend([seconds] if turn else [])
    for (way, direction), seconds in samples.items():
        found[f"{way} {direction}"] = 1000 * Spread.of(seconds).median
    return found


def by_winograd(x: Buffer, y: Buffer, gx: Buffer, gy: Buffer, weights: Memory, gradient: Memory) -> Directions:
    convolution = WinogradConvolution(x.desc, y.desc, BufferPool(), add)
    steps: Directions = {"forward": [], "backward": []}
    convolution.forward(steps["forward"], weights, x, y)
    convolution.backward(steps["backward"], x, gy, gx, gradient)
    return steps


def direct(x: Buffer, y: Buffer, gx: Buffer, gy: Buffer, weights: Memory, gradient: Memory) -> Directions:
    convolution = Convolution(x.desc, Desc(weights.desc.shape, "float32", "any"), None, y.desc, SAME)
    forward = convolution.forward()
    to_data, to_weights = convolution.backward_data(forward), convolution.backward_weights(forward)
    steps: Directions = {"forward": [], "backward": []}
    packed = reordered(steps["forward"], weights, forward.weights)
    add(steps["forward"], forward, {"src": x.memory, "weights": packed, "dst": y.memory})
    packed = reordered(steps["backward"], weights, to_data.weights)
    add(steps["backward"], to_data, {"diff_dst": gy.memory, "weights": packed, "diff_src": gx.memory})
    found = Buffer(to_weights.diff_weights).memory
    add(steps["backward"], to_weights, {"src": x.memory, "diff_dst": gy.memory, "diff_weights": found})
    add(steps["backward"], reorder(found.desc, gradient.desc), {"src": found, "dst": gradient})
    return steps


def reordered(steps: list[Any], weights: Memory, layout: Desc) -> Memory:
    packed = Buffer(layout).memory
    add(steps, reorder(weights.desc, layout), {"src": weights, "dst": packed})
    return packed


def show(rows: Sequence[dict[str, Any]]) -> str:
    header = ["images, channels, side", "engine takes"]
    for direction in ("forward", "backward"):
        header += [f"{direction}: direct ms", "Winograd ms", "ratio"]
    return markdown_table(header, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    n, incoming, outgoing, side = row["layer"]
    cells = [f"{n}, {incoming} to {outgoing}, {side}x{side}", "Winograd" if row["taken"] else "direct"]
    for direction in ("forward", "backward"):
        times = row[f"direct {direction}"], row[f"winograd {direction}"]
        cells += [f"{times[0]:.1f}", f"{times[1]:.1f}", f"{times[1] / times[0]:.2f}"]
    return cells


if __name__ == "__main__":
    main()
