"""What a network does to an image, as a list of the layers that it passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from paddle import nn

from cifar_hapi.networks.layers import ConvNorm, GlobalAveragePool, GlobalMaxPool, MaxPool, PadShortcut, ResidualJoin

FEATURE_LAYERS = (ConvNorm, MaxPool, PadShortcut, ResidualJoin)
POOLS = (GlobalAveragePool, GlobalMaxPool)


@dataclass(frozen=True)
class Operation:
    """One layer at work. Values are numbered: 0 is the network's input."""

    layer: Any
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class Trace:
    """operations: from the input to the features [N, C] that the last of them gives. tail: the layers after it."""

    operations: tuple[Operation, ...]
    tail: tuple[Any, ...]


def trace(network: nn.Layer) -> Trace | None:
    """The path through `network`, or None where it does more than pass its input from layer to layer.

    Sub-layers with hooks are not traced either, because the hooks would not run.
    """
    if any(layer._forward_pre_hooks or layer._forward_post_hooks for layer in network.sublayers()):
        return None
    operations: list[Operation] = []
    tail: list[Any] = []
    with _recorded(network, operations, tail):
        try:
            network.forward(_Value(0))
        except (TypeError, ValueError, AttributeError, _Untraceable):
            return None
    return Trace(tuple(operations), tuple(tail)) if operations and isinstance(operations[-1].layer, POOLS) else None


class _Untraceable(Exception):
    """The path is not one that the engine can follow."""


class _Value:
    """Stands in for a tensor: it can be passed on, and nothing else. What the tail computes has no number."""

    def __init__(self, number: Any):
        self.number = number


@contextmanager
def _recorded(network: nn.Layer, operations: list[Operation], tail: list[Any]) -> Iterator[None]:
    """Inside, the layers that the engine knows write down that they are called, instead of computing."""
    layers = [layer for layer in network.sublayers() if isinstance(layer, (*FEATURE_LAYERS, *POOLS, nn.Linear))]

    def record(layer: Any, *values: _Value) -> _Value:
        numbers = [value.number for value in values]
        if isinstance(layer, nn.Linear):
            if numbers != ([None] if tail else [len(operations)]):
                raise _Untraceable  # it does not follow on what comes before
            tail.append(layer)
            return _Value(None)
        if tail:
            raise _Untraceable
        operations.append(Operation(layer, tuple(numbers), len(operations) + 1))
        return _Value(len(operations))

    try:
        for layer in layers:
            layer.__dict__["forward"] = lambda *values, layer=layer: record(layer, *values)
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]
