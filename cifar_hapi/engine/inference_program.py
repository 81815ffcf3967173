"""A traced network's forward pass in evaluation mode: convolutions apply batch norm, residual sum and ReLU too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from paddle import nn

from cifar_hapi.engine import onednn
from cifar_hapi.engine.memory import Buffer, BufferPool, convolved, floats_at
from cifar_hapi.engine.onednn import Call, Desc, Memory, PostOps, Window
from cifar_hapi.engine.trace import Trace
from cifar_hapi.networks.layers import ConvNorm, GlobalAveragePool, GlobalMaxPool, MaxPool, PadShortcut, ResidualJoin

Step = Callable[[], None]


class InferenceProgram:
    """Computes features for one shape of input; parameters and running statistics are read anew every time.

    features: how many an image has.
    """

    def __init__(self, trace: Trace, shape: Sequence[int], channels_last: bool, dtype: onednn.Dtype):
        """shape: [N, C, H, W] of the input, whichever way its memory is laid out."""
        self.features = 0
        self._dtype = dtype
        self._pool = BufferPool()
        self._steps: list[Step] = []
        self._parameters: list[tuple[Memory, Any]] = []
        self._norms: list[_AffineNorm] = []
        self._readers = Counter(number for operation in trace.operations for number in operation.inputs)
        self._source = Memory(Desc(shape, "float32", "nhwc" if channels_last else "nchw"))
        first = self._new(shape)
        self._reorder(self._source, first.memory)
        self._lay_out(trace, first)

    def forward(self, source: int, features: int) -> None:
        """Read the input at the address `source`, write the features, float32 [N, C], at `features`."""
        self._source.point_to(source)
        self._features.point_to(features)
        for memory, parameter in self._parameters:
            memory.point_to(parameter.data_ptr())
        for norm in self._norms:
            norm.update()
        for step in self._steps:
            step()

    def _lay_out(self, trace: Trace, first: Buffer) -> None:
        values: dict[int, Buffer | _Waiting] = {0: first}
        first.users = self._readers[0]
        joined = {operation.inputs[0] for operation in trace.operations if isinstance(operation.layer, ResidualJoin)}
        for operation in trace.operations:
            inputs = [values[number] for number in operation.inputs]
            waits = operation.output in joined and isinstance(operation.layer, ConvNorm)
            if waits and operation.layer.activation.__class__ is nn.Identity and self._readers[operation.output] == 1:
                values[operation.output] = _Waiting(operation.layer, inputs[0])  # the join computes it
                continue
            result = _BUILDERS[type(operation.layer)](self, operation.layer, *inputs)
            result.users = self._readers[operation.output]
            values[operation.output] = result

    # Each of the following lays out a layer, is done with its inputs, and returns its result.

    def _conv_norm(self, layer: ConvNorm, x: Buffer) -> Buffer:
        return self._convolution(layer, x, relu=isinstance(layer.activation, nn.ReLU))

    def _join(self, layer: ResidualJoin, y: Buffer | _Waiting, shortcut: Buffer) -> Buffer:
        if isinstance(y, _Waiting):
            return self._convolution(y.layer, y.source, relu=True, summand=shortcut)
        z = self._new(y.memory.desc.shape)
        call = Call(onednn.add(z.memory.desc, relu=True), {"src": y.memory, "src1": shortcut.memory, "dst": z.memory})
        self._steps.append(call.run)
        self._done_with(y, shortcut)
        return z

    def _convolution(self, layer: ConvNorm, x: Buffer, relu: bool, summand: Buffer | None = None) -> Buffer:
        conv, shape = layer.conv, tuple(layer.conv.weight.shape)
        stride, padding = conv._stride[0], conv._padding
        z = self._new(convolved(x.memory.desc.shape, shape, stride, padding))
        norm = _AffineNorm(layer.norm, shape[0])
        self._norms.append(norm)
        post = PostOps().multiply(norm.factor.memory).add(norm.offset.memory)
        post = post.add(summand.memory) if summand else post
        post = post.relu() if relu else post
        free_layout = Desc(shape, self._dtype, "any")
        forward = onednn.convolution(x.memory.desc, free_layout, z.memory.desc, stride, padding, False, post)
        weights = Memory(Desc(shape, "float32", "oihw"))
        self._parameters.append((weights, conv.weight))
        packed = Buffer(forward.weights).memory
        self._reorder(weights, packed)
        names = {"src": x.memory, "weights": packed, "dst": z.memory, **post.memories}
        self._steps.append(Call(forward, names).run)
        self._done_with(x, *([summand] if summand else []))
        return z

    def _pad_shortcut(self, layer: PadShortcut, x: Buffer) -> Buffer:
        (n, c, h, w), step = x.memory.desc.shape, layer.stride
        z = Buffer(
            Desc((n, c + layer.new_channels, -(-h // step), -(-w // step)), self._dtype)
        )  # of its own: has zeros
        source, target = x.image()[:, ::step, ::step], z.image()[..., :c]
        self._steps.append(lambda: np.copyto(target, source))
        self._done_with(x)
        return z

    def _max_pool(self, layer: MaxPool, x: Buffer) -> Buffer:
        kernel, stride = layer.ksize, layer.ksize if layer.stride is None else layer.stride
        return self._pooled(Window("max", (kernel, kernel), (stride, stride), layer.padding), x)

    def _pooled(self, window: Window, x: Buffer) -> Buffer:
        shape = x.memory.desc.shape
        z = self._new((*shape[:2], *window.result(shape[2:])))
        call = Call(
            onednn.pool(window, x.memory.desc, z.memory.desc, training=False), {"src": x.memory, "dst": z.memory}
        )
        self._steps.append(call.run)
        self._done_with(x)
        return z

    def _global_pool(self, layer: GlobalAveragePool | GlobalMaxPool, x: Buffer) -> Buffer:
        """The last layer: its result is the features, in memory of the caller's."""
        n, self.features, h, w = x.memory.desc.shape
        kind: Any = "average" if isinstance(layer, GlobalAveragePool) else "max"
        z = self._pooled(Window(kind, (h, w), (1, 1)), x)
        self._features = Memory(Desc((n, self.features, 1, 1), "float32"))
        self._reorder(z.memory, self._features)
        return z

    def _new(self, shape: Sequence[int]) -> Buffer:
        return self._pool.take(Desc(shape, self._dtype, "nhwc"))

    def _done_with(self, *values: Buffer) -> None:
        for value in values:
            self._pool.give(value)

    def _reorder(self, source: Memory, target: Memory) -> None:
        self._steps.append(Call(onednn.reorder(source.desc, target.desc), {"src": source, "dst": target}).run)


class _Waiting:
    """A convolution whose result is only ever added to a shortcut."""

    def __init__(self, layer: ConvNorm, source: Any):
        self.layer, self.source = layer, source


class _AffineNorm:
    """Batch norm in evaluation mode: factor * x + offset, per channel."""

    def __init__(self, norm: nn.BatchNorm2D, channels: int):
        self._norm = norm
        self.factor, self.offset = (Buffer(Desc((1, channels, 1, 1), "float32")) for _ in range(2))

    def update(self) -> None:
        norm, factor, offset = self._norm, self.factor.floats(), self.offset.floats()
        tensors = (norm.weight, norm.bias, norm._mean, norm._variance)
        scale, shift, mean, variance = (floats_at(tensor.data_ptr(), factor.size) for tensor in tensors)
        np.divide(scale, np.sqrt(variance + np.float32(norm._epsilon)), out=factor)
        np.subtract(shift, mean * factor, out=offset)


_BUILDERS: dict[type, Callable[..., Buffer]] = {
    ConvNorm: InferenceProgram._conv_norm,
    GlobalAveragePool: InferenceProgram._global_pool,
    GlobalMaxPool: InferenceProgram._global_pool,
    MaxPool: InferenceProgram._max_pool,
    PadShortcut: InferenceProgram._pad_shortcut,
    ResidualJoin: InferenceProgram._join,
}
