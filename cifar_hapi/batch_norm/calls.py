"""Which layer gives its output to which, as a forward pass with tensors shows.

The engine's trace follows whole networks of layers that it knows, and stops at a `paddle.flatten`, as in the networks
of `paddle.vision`. Here all runs as ever, and hooks note which tensor each layer is given and gives; who else reads it
is found out by giving the others something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn

from callbacks.network_input import output_of

Link = tuple[nn.Layer, nn.Layer]  # the first gives its output to the second


@dataclass(frozen=True, eq=False)
class Call:
    """A layer was called with the tensor `source`, and gave `output`; each with how often it was changed until then."""

    layer: nn.Layer
    source: tuple[paddle.Tensor, int]
    output: tuple[paddle.Tensor, int]


@dataclass(frozen=True, eq=False)
class Calls:
    """The calls of one forward pass, in their order, and what the network gave, as arrays."""

    calls: Sequence[Call]
    outputs: Sequence[np.ndarray]

    def of(self, layer: nn.Layer) -> list[Call]:
        return [call for call in self.calls if call.layer is layer]

    def giver(self, call: Call) -> Call | None:
        """The call whose output, unchanged since, `call` was given."""
        return next((each for each in self.calls if _same(each.output, call.source)), None)

    def takers(self, call: Call) -> list[Call]:
        """The calls that were given the output of `call`; what else reads it is not seen here."""
        return [each for each in self.calls if _same(each.source, call.output)]


def record(network: nn.Layer, x: paddle.Tensor, watched: Iterable[nn.Layer]) -> Calls:
    """The calls of the layers `watched`, with one tensor and for one tensor, while `network` is called with `x`."""
    calls: list[Call] = []

    def note(layer: nn.Layer, inputs: Any, output: Any) -> None:
        if inputs and isinstance(inputs[0], paddle.Tensor) and isinstance(output, paddle.Tensor):
            calls.append(Call(layer, (inputs[0], inputs[0].inplace_version), (output, output.inplace_version)))

    with _removed([layer.register_forward_post_hook(note) for layer in watched]):
        return Calls(calls, outputs_of(network, x))


def outputs_of(network: nn.Layer, x: paddle.Tensor) -> list[np.ndarray]:
    """What `network` gives for `x`, as arrays, however nested."""
    with paddle.no_grad():
        return [tensor.numpy() for tensor in paddle.utils.flatten(output_of(network, [x]))]


def private(network: nn.Layer, x: paddle.Tensor, links: Sequence[Link], expected: Sequence[np.ndarray]) -> bool:
    """Whether what the first layer of each link gives is read by the second alone, as far as the outputs tell.

    That is so if they stay what is `expected` when everyone else is given other values.
    """
    if not links:
        return True
    kept: dict[int, tuple[paddle.Tensor, paddle.Tensor]] = {}  # by the stand-in's id: itself, and what it stands for

    def replace(layer: nn.Layer, inputs: Any, output: Any) -> Any:
        stand_in = 3 - 2 * output
        kept[id(stand_in)] = stand_in, output
        return stand_in

    def put_back(layer: nn.Layer, inputs: Any) -> Any:
        return (kept[id(inputs[0])][1], *inputs[1:]) if id(inputs[0]) in kept else inputs

    givers, takers = (dict.fromkeys(layers) for layers in zip(*links, strict=True))
    hooks = [layer.register_forward_post_hook(replace) for layer in givers]
    hooks += [layer.register_forward_pre_hook(put_back) for layer in takers]
    with _removed(hooks):
        return difference(outputs_of(network, x), expected) < 1e-6


def difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest difference, relative to the largest expected value, or to 1 where all are 0."""
    if [each.shape for each in found] != [each.shape for each in expected]:
        return float("inf")
    scale = max(float(np.abs(each).max()) for each in expected) or 1.0
    largest = [np.abs(mine - theirs).max() for mine, theirs in zip(found, expected, strict=True)]
    return float(np.max(largest)) / scale  # NaN, if there is any


def _same(one: tuple[paddle.Tensor, int], other: tuple[paddle.Tensor, int]) -> bool:
    return one[0] is other[0] and one[1] == other[1]


@contextmanager
def _removed(hooks: Iterable[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
