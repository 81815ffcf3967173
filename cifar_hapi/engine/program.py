"""What training and inference programs share: a list of oneDNN calls on memory that is laid out once, for one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cifar_hapi.engine import layers, primitives
from cifar_hapi.engine.memory import Buffer, BufferPool, Scratchpad, layout
from cifar_hapi.engine.onednn import Call, Desc, Dtype, Memory, PrimitiveDesc, Unimplemented
from cifar_hapi.engine.primitives import Convolution, Geometry
from cifar_hapi.engine.trace import Trace


class Step(Protocol):
    """Part of a program."""

    def run(self) -> None: ...


class NoFastForm(Exception):
    """A layer for which oneDNN has only its reference code; None: an input that Paddle treats in a way of its own."""

    def __init__(self, layer: Any):
        super().__init__(f"no fast form of {layer}")
        self.layer = layer


@contextmanager
def told_by_layer(layer: Any) -> Iterator[None]:
    """What oneDNN has no implementation of at all, within it, is a layer without a fast form."""
    try:
        yield
    except Unimplemented as error:
        raise NoFastForm(layer) from error


@dataclass(frozen=True)
class Tensors:
    """Addresses of float32 memory, for one run: of parameters and running statistics in the order of the trace."""

    parameters: Sequence[int]
    statistics: Sequence[int]


class Program:
    """The memory of a program and its ways of adding to a list of steps.

    path: what is computed. shape: [N, C, H, W] of the input, however its memory is laid out. result: that of the
    output, [N, C] where the trace is flat. bytes: what the program holds.
    """

    def __init__(self, path: Trace, shape: Sequence[int], dtype: Dtype):
        self.result: tuple[int, ...] = ()
        self._path, self._dtype = path, dtype
        self._pool, self._scratchpad = BufferPool(), Scratchpad()
        self._bound: dict[tuple[Any, str], Memory] = {}
        self._tag = "nhwc" if path.channels_last else "nchw"
        self._source = Memory(Desc(shape, "float32", self._tag))

    @property
    def bytes(self) -> int:
        return self._pool.bytes + self._scratchpad.bytes

    def _bind(self, tensors: Tensors) -> None:
        slots = (*self._path.slots, *self._path.statistics)
        self._addresses = dict(zip(slots, (*tensors.parameters, *tensors.statistics), strict=True))
        for slot, memory in self._bound.items():
            memory.point_to(self._addresses[slot])

    def _parameter(self, layer: Any, name: str, desc: Desc) -> Memory:
        """Memory that is pointed to the tensor of this name when the program runs."""
        self._bound[layer, name] = Memory(desc)
        return self._bound[layer, name]

    def _call(self, steps: list[Step], primitive: PrimitiveDesc, memories: Mapping[str, Memory]) -> None:
        scratch = primitive.scratchpad
        used = {"scratchpad": self._scratchpad.memory(scratch)} if scratch.size else {}
        steps.append(Call(primitive, {**memories, **used}))

    def _reorder(self, steps: list[Step], source: Memory, target: Memory) -> None:
        self._call(steps, primitives.reorder(source.desc, target.desc), {"src": source, "dst": target})

    def _laid_out(self, steps: list[Step], buffer: Buffer, tag: str) -> Buffer:
        """`buffer` in the layout `tag`: itself, with one more user, or a copy. The caller gives it back."""
        if buffer.desc.tag == tag:
            buffer.users += 1
            return buffer
        copy = self._pool.take(Desc(buffer.desc.shape, self._dtype, tag))
        self._reorder(steps, buffer.memory, copy.memory)
        return copy

    def _convolve(
        self, steps: list[Step], layer: Any, kernel: Kernel, x: Buffer, y: Buffer, operands: Sequence[Buffer] = ()
    ) -> Memory:
        """The convolution of `x` into `y`, whatever their layouts; the memory that is pointed to the weights.

        operands: of the kernel's post-ops, in their order.
        """
        weights = self._parameter(layer, "weight", weights_desc(layer))
        packed = self._pool.keep(kernel.primitive.weights).memory
        self._reorder(steps, weights, packed)
        source = self._laid_out(steps, x, kernel.src)
        target = y if kernel.dst == y.desc.tag else self._pool.take(Desc(y.desc.shape, self._dtype, kernel.dst))
        memories = {"src": source.memory, "weights": packed, "dst": target.memory}
        memories |= {f"post{place}": each.memory for place, each in enumerate(operands)}
        if layers.parameter(layer, "bias") is not None:
            memories["bias"] = self._parameter(layer, "bias", Desc((y.desc.shape[1],), "float32", "a"))
        self._call(steps, kernel.primitive, memories)
        self._pool.give(source)
        if target is not y:
            self._reorder(steps, target.memory, y.memory)
            self._pool.give(target)
        return weights

    def _write_result(self, steps: list[Step], output: Buffer) -> None:
        """The last step: `output` to memory of the caller's."""
        n, c, h, w = output.desc.shape
        self.result = (n, c) if self._path.flat else (n, h, w, c) if self._path.channels_last else (n, c, h, w)
        self._result = Memory(Desc(output.desc.shape, "float32", self._tag))
        self._reorder(steps, output.memory, self._result)

    def _map(self, shape: Sequence[int]) -> Desc:
        """The description of a feature map of this shape."""
        if min(shape) < 1:
            raise NoFastForm(None)
        return Desc(shape, self._dtype, layout(shape, self._dtype))

    def _input_map(self, shape: Sequence[int]) -> Desc:
        """As `_map`; but a first convolution in blocks takes the few channels of images best from a plain layout."""
        first = self._path.operations[0]
        if shape[1] < 8 and first.kind == "convolution" and self._path.readers[0] == 1:
            geometry = layers.convolution_geometry(first.layer)
            out = convolved(shape, layers.parameter(first.layer, "weight").shape[0], geometry)
            if min(out) > 0 and layout(out, self._dtype) == "blocked":
                return Desc(shape, self._dtype, "nchw")
        return self._map(shape)


@dataclass(frozen=True)
class Kernel:
    """A convolution's primitive in one direction, and the layouts in which it takes maps."""

    primitive: PrimitiveDesc
    src: str
    dst: str


def convolved(shape: Sequence[int], channels: int, geometry: Geometry) -> tuple[int, ...]:
    """[N, O, H, W] of a convolution of [N, I, H, W]."""
    return (shape[0], channels, *geometry.result(shape[2:]))


def output_channels(conv: Any, src: Desc) -> int:
    """How many channels a convolution gives. Raises NoFastForm if `src` isn't what it takes: Paddle says so best."""
    outgoing, incoming, *_ = layers.parameter(conv, "weight").shape
    if src.shape[1] != incoming * layers.convolution_geometry(conv).groups:
        raise NoFastForm(None)
    return int(outgoing)


def check_channels(norm: Any, src: Desc) -> None:
    """Raise NoFastForm if `src` isn't what a batch norm takes."""
    if [src.shape[1]] != layers.parameter(norm, "weight").shape:
        raise NoFastForm(None)


def padded(layer: Any, shape: Sequence[int]) -> tuple[int, ...]:
    """[N, C, H, W] of what a padded shortcut makes of a map."""
    n, c, h, w = shape
    return n, c + layer.new_channels, -(-h // layer.stride), -(-w // layer.stride)


def fast_form(primitive: PrimitiveDesc, layer: Any) -> PrimitiveDesc:
    """`primitive`, if it is more than reference code. Raises NoFastForm."""
    if not primitive.fast:
        raise NoFastForm(layer)
    return primitive


def kernels(layer: Any, src: Desc, dst: Desc, dtype: Dtype) -> Iterator[Convolution]:
    """The convolution in all layouts that may have fast code, the maps' own first."""
    geometry = layers.convolution_geometry(layer)
    weights = Desc(weights_desc(layer).shape, dtype, "any")
    bias = None if layer.bias is None else Desc((dst.shape[1],), "float32", "a")
    own = (src.tag, dst.tag)
    pairs = [own, (dst.tag, dst.tag), ("nhwc", "nhwc"), ("blocked", "blocked"), ("nchw", "blocked")]
    for src_tag, dst_tag in dict.fromkeys(pairs):
        maps = Desc(src.shape, dtype, src_tag), Desc(dst.shape, dtype, dst_tag)
        yield Convolution(maps[0], weights, bias, maps[1], geometry)


def weights_desc(layer: Any) -> Desc:
    """A convolution's weights, which Paddle has as [O, I, kh, kw], group by group."""
    shape, groups = tuple(layers.parameter(layer, "weight").shape), layers.convolution_geometry(layer).groups
    if groups == 1:
        return Desc(shape, "float32", "oihw")
    return Desc((groups, shape[0] // groups, *shape[1:]), "float32", "goihw")


def fastest(candidates: Iterator[Convolution], make: Callable[[Convolution], PrimitiveDesc], layer: Any) -> Kernel:
    """The first kernel of `make(convolution)` that is not reference code. Raises NoFastForm where there is none."""
    for convolution in candidates:
        try:
            primitive = make(convolution)
        except Unimplemented:
            continue
        if primitive.fast:
            return Kernel(primitive, convolution.src.tag, convolution.dst.tag)
    raise NoFastForm(layer)


_LOWEST_AND_NAN: dict[str, tuple[Any, Any]] = {
    "float32": (np.finfo(np.float32).min, np.nan),
    "bfloat16": (0xFF80, 0x7FC0),  # as uint16; the lowest float32 is rounded to minus infinity
}


class KeptNaN:
    """Makes the result of a max pool NaN where all of a window is: oneDNN gives the lowest float32 there.

    Of a window with a NaN and numbers, oneDNN gives the largest number; Paddle does so unless NaN is the last.
    """

    def __init__(self, result: Buffer):
        self._values = result.floats() if result.desc.dtype == "float32" else result.array.view(np.uint16)
        self._lowest, self._nan = _LOWEST_AND_NAN[result.desc.dtype]

    def run(self) -> None:
        found = self._values == self._lowest
        if found.any():
            self._values[found] = self._nan


class PaddedCopy:
    """Every `step`-th pixel of a map, with zeros for the channels that are new, and the way back.

    tag: the layout that both maps must be in.
    """

    def __init__(self, x: Desc, z: Desc, step: int):
        self.tag = z.tag if x.shape[1] % 16 == 0 else "nhwc"
        self._step = step

    def between(self, source: Buffer, target: Buffer, back: bool = False) -> Step:
        """From `source` to `target`, which holds zeros between and behind what is copied."""
        small, large = (target.image(), source.image()) if back else (source.image(), target.image())
        pixels, kept = small[:, :: self._step, :: self._step], large[:, :, :, : small.shape[3]]
        return _Copy(kept, pixels) if back else _Copy(pixels, kept)


class _Copy:
    """A copy between views of feature maps."""

    def __init__(self, source: np.ndarray, target: np.ndarray):
        self._source, self._target = source, target

    def run(self) -> None:
        np.copyto(self._target, self._source)
