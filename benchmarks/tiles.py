"""3x3 convolutions in bfloat16 where the CPU multiplies tiles (AMX), layer by layer: by layout, and in strips.

    python -m benchmarks.tiles
    python -m benchmarks.tiles --layers 128:64:256:15 128:512:512:4    (images, channels in and out, side)

All take turns in this process. By these figures `layout` in `cifar_hapi/engine/memory.py` and `images_in_a_strip` in
`cifar_hapi/engine/strips.py` choose; the copies into strips are in the times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.layers import SAME, add, layer_by_layer
from benchmarks.tables import markdown_table
from benchmarks.timing import Spread, timed
from cifar_hapi.engine import onednn
from cifar_hapi.engine.memory import Buffer
from cifar_hapi.engine.onednn import Desc, Memory, PrimitiveDesc
from cifar_hapi.engine.primitives import Convolution, reorder
from cifar_hapi.engine.strips import Strips, images_in_a_strip

BLOCKS, LAST, STRIPS = "in blocks", "channels-last", "in strips"
FORWARD, TO_INPUT, TO_WEIGHTS = "forward", "gradient of the input", "gradient of the weights"
Maps = tuple[Desc, Desc]  # of a convolution's input and output
Steps = list[Any]


def main() -> None:
    why_not = "" if onednn.multiplies_tiles() else "this CPU does not multiply tiles (AMX)"
    layer_by_layer(__doc__, why_not, measure, show)


def measure(n: int, incoming: int, outgoing: int, side: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each direction in each way that there is: in strips where the engine takes them."""
    found: dict[str, Any] = {"layer": [n, incoming, outgoing, side]}
    steps = {}
    for way, tag in ((BLOCKS, "blocked"), (LAST, "nhwc")):
        if tag == "blocked" and (incoming % 16 or outgoing % 16):
            continue
        maps = Desc((n, incoming, side, side), "bfloat16", tag), Desc((n, outgoing, side, side), "bfloat16", tag)
        steps |= {(way, direction): lay_out(maps) for direction, lay_out in DIRECTIONS.items()}
    count = images_in_a_strip(*maps, SAME)
    if count > 1:
        steps[STRIPS, TO_WEIGHTS] = gradient_from_strips(maps, count)
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for turn in range(rounds + 1):
        for key, of_one in steps.items():
            seconds = timed(lambda of_one=of_one: [step.run() for step in of_one])
            samples[key].extend([seconds] if turn else [])
    return found | {f"{direction}, {way}": 1000 * Spread.of(each).median for (way, direction), each in samples.items()}


def forward(maps: Maps) -> Steps:
    primitive = convolution(maps).forward()
    roles = {"src": maps[0], "weights": primitive.weights, "dst": maps[1]}
    return called(primitive, roles)


def gradient_of_input(maps: Maps) -> Steps:
    whole = convolution(maps)
    primitive = whole.backward_data(whole.forward())
    return called(primitive, {"diff_src": maps[0], "weights": primitive.weights, "diff_dst": maps[1]})


def gradient_of_weights(maps: Maps, **given: Memory) -> Steps:
    whole = convolution(maps)
    full = convolution(maps, "float32").backward_weights(whole.forward())
    return called(full, {"src": maps[0], "diff_weights": full.diff_weights, "diff_dst": maps[1]}, **given)


def gradient_from_strips(maps: Maps, count: int) -> Steps:
    laid = [Strips(each, SAME.before[1], count) for each in maps]
    steps: Steps = []
    given = {}
    for role, image, strips in zip(("src", "diff_dst"), maps, laid, strict=True):
        buffer = Buffer(strips.desc)
        source, places = filled(image, strips.images), Memory(strips.places, buffer.array)
        add(steps, reorder(strips.images, strips.places), {"src": source, "dst": places})
        given[role] = buffer.memory
    return steps + gradient_of_weights((laid[0].desc, laid[1].desc), **given)


DIRECTIONS = {FORWARD: forward, TO_INPUT: gradient_of_input, TO_WEIGHTS: gradient_of_weights}


def convolution(maps: Maps, weights: str = "bfloat16") -> Convolution:
    shape = maps[1].shape[1], maps[0].shape[1], 3, 3
    return Convolution(maps[0], Desc(shape, weights, "any"), None, maps[1], SAME)


def called(primitive: PrimitiveDesc, roles: dict[str, Desc], **given: Memory) -> Steps:
    steps: Steps = []
    add(steps, primitive, {role: given.get(role) or filled(desc) for role, desc in roles.items()})
    return steps


def filled(desc: Desc, seen_as: Desc | None = None) -> Memory:
    """Memory full of random numbers, as bfloat16, or as the upper halves of float32."""
    buffer = Buffer(desc)
    draw = np.random.default_rng(0).standard_normal(desc.size // 2, "float32")
    buffer.array.view(np.uint16)[:] = draw.view(np.uint32) >> 16
    return Memory(seen_as or desc, buffer.array)


def show(rows: Sequence[dict[str, Any]]) -> str:
    columns = [(direction, way) for direction in DIRECTIONS for way in (BLOCKS, LAST)] + [(TO_WEIGHTS, STRIPS)]
    header = ["images, channels, side", *(f"{direction}, {way}, ms" for direction, way in columns)]
    return markdown_table(header, [_cells(row, [f"{direction}, {way}" for direction, way in columns]) for row in rows])


def _cells(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    n, incoming, outgoing, side = row["layer"]
    times = [f"{row[column]:.1f}" if column in row else "" for column in columns]
    return [f"{n}, {incoming} to {outgoing}, {side}x{side}", *times]


if __name__ == "__main__":
    main()
