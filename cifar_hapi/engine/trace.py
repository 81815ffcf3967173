"""What a network does to feature maps, as a list of operations."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import paddle
from paddle import nn

from cifar_hapi.engine import layers
from cifar_hapi.engine.side_effects import undone

Kind = Literal["convolution", "norm", "relu", "activation", "pool", "pad", "add"]


@dataclass(frozen=True)
class Operation:
    """One step of the way. Values are numbered: 0 is the input. `relu`: whether a ReLU follows, before the output."""

    kind: Kind
    layer: Any  # None for the addition of two values
    inputs: tuple[int, ...]
    output: int
    relu: bool = False


@dataclass(frozen=True)
class Trace:
    """operations: from the input to `output`. flat: whether that is [N, C] rather than a map. tail: linear layers that
    follow on it. slots: layer and name of each parameter; statistics: of each running mean and variance.
    batch_statistics: whether any batch norm normalises by the batch."""

    operations: tuple[Operation, ...]
    output: int
    flat: bool
    tail: tuple[Any, ...]
    slots: tuple[tuple[Any, str], ...]
    statistics: tuple[tuple[Any, str], ...]
    batch_statistics: bool
    channels_last: bool

    @cached_property
    def readers(self) -> Counter[int]:
        """How often each value is read, by operations or as the output."""
        return _readers(self.operations, self.output)


def trace(network: nn.Layer, unknown: frozenset[int] = frozenset()) -> Trace | None:
    """The path through `network`, which is called with one feature map; None where it is not one that can be followed.

    That is so where anything but known layers and additions meets the map, where a layer inside has hooks or a forward
    of its own, which would not run, or is called twice, or without gradients, and where the forward pass has side
    effects or draws random numbers. `unknown`: the ids of layers that are not to be taken as known.

    The forward method of the network's class runs once, with a stand-in for the map.
    """
    inside = network.sublayers()
    if any(layers.has_hooks(layer) for layer in inside):
        return None
    plain = [network, *(layer for layer in inside if "forward" not in layer.__dict__)]
    known = {layer: layers.kind(layer) for layer in plain if id(layer) not in unknown}
    recorder = _Recorder({layer: kind for layer, kind in known.items() if kind})
    try:
        with undone(network), paddle.enable_grad():
            output = recorder.run(network)
    except Exception:  # noqa: BLE001  # whatever someone's forward does with an object that is no tensor
        return None
    return recorder.finished(output)


class _Value:
    """Stands in for a feature map: it can be passed on, and added to another."""

    def __init__(self, recorder: _Recorder, number: int, what: Literal["map", "flat", "tail"] = "map"):
        self.recorder, self.number, self.what = recorder, number, what

    def __add__(self, other: _Value) -> _Value:
        return self.recorder.add("add", None, self, other)


class _Untraceable(Exception):
    """The path is not one that the engine can follow."""


class _Recorder:
    """Writes down what happens to stand-ins."""

    def __init__(self, known: dict[nn.Layer, layers.Kind]):
        self._known = known
        self._operations: list[Operation] = []
        self._tail: list[Any] = []

    def run(self, network: nn.Layer) -> _Value:
        with self._recording():
            forward = network.forward if network in self._known else partial(type(network).forward, network)
            output = forward(_Value(self, 0))
        if not isinstance(output, _Value) or (self._tail and output.what != "tail"):
            raise _Untraceable
        return output

    def add(self, kind: Kind, layer: Any, *values: _Value) -> _Value:
        if any(value.what != "map" or value.recorder is not self for value in values) or not paddle.is_grad_enabled():
            raise _Untraceable
        if layer is not None and any(layer is operation.layer for operation in self._operations):
            raise _Untraceable
        number = len(self._operations) + 1
        self._operations.append(Operation(kind, layer, tuple(value.number for value in values), number))
        return _Value(self, number)

    def finished(self, output: _Value) -> Trace | None:
        formats = {layers.channels_last(operation.layer) for operation in self._operations if operation.layer}
        formats.discard(None)
        readers = _readers(self._operations, output.number)
        if not all(operation.output in readers for operation in self._operations):
            return None  # parameters of what nobody reads have no gradients, rather than gradients of zero
        if not any(operation.kind in ("convolution", "norm") for operation in self._operations) or len(formats) != 1:
            return None
        slots = [(op.layer, name) for op in self._operations for name in _PARAMETERS.get(op.kind, ())]
        statistics = [(op.layer, name) for op in self._operations if op.kind == "norm" for name in _STATISTICS]
        return Trace(
            operations=tuple(_with_relu(self._operations, output.number)),
            output=output.number,
            flat=output.what != "map",
            tail=tuple(self._tail),
            slots=tuple(slot for slot in slots if layers.parameter(*slot) is not None),
            statistics=tuple(statistics),
            batch_statistics=any(layers.uses_batch_statistics(layer) for layer, name in statistics),
            channels_last=bool(formats.pop()),
        )

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Inside, known layers write down that they are called with stand-ins, instead of computing."""
        before = {layer: layer.__dict__.get("forward") for layer in self._known}
        try:
            for layer in self._known:
                layer.__dict__["forward"] = partial(self._forward, layer, layer.forward)
            yield
        finally:
            for layer, forward in before.items():
                del layer.__dict__["forward"]
                if forward is not None:
                    layer.__dict__["forward"] = forward

    def _forward(self, layer: nn.Layer, usual: Any, *values: Any, **named: Any) -> Any:
        """What a known layer does meanwhile: as usual with tensors, which another thread may call it with."""
        if any(isinstance(value, _Value) for value in values):
            return self._called(layer, *values, **named)
        return usual(*values, **named)

    def _called(self, layer: nn.Layer, *values: _Value) -> _Value:
        kind = self._known[layer]
        if kind == "linear":
            (value,) = values
            if value.what != ("tail" if self._tail else "flat") or not paddle.is_grad_enabled():
                raise _Untraceable  # it does not follow on what comes before
            self._tail.append(layer)
            return _Value(self, value.number, "tail")
        if kind == "join":
            return self.add("relu", None, self.add("add", None, *values))
        if kind == "features":
            return _Value(self, self.add("pool", layer, *values).number, "flat")
        return self.add(kind, layer, *values)


_PARAMETERS = {"convolution": ("weight", "bias"), "norm": ("weight", "bias")}
_STATISTICS = ("_mean", "_variance")


def _readers(operations: Iterable[Operation], output: int) -> Counter[int]:
    return Counter([output, *(number for operation in operations for number in operation.inputs)])


def _with_relu(operations: list[Operation], output: int) -> list[Operation]:
    """Operations with each ReLU made a part of the batch norm or addition that it alone reads."""
    readers = _readers(operations, output)
    found: dict[int, Operation] = {}
    for operation in operations:
        source = found.get(operation.inputs[0])
        if operation.kind == "relu" and source and source.kind in ("norm", "add") and readers[source.output] == 1:
            del found[source.output]
            operation = dataclasses.replace(source, relu=True, output=operation.output)
        found[operation.output] = operation
    return list(found.values())
