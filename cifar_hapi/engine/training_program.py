"""A traced network's forward and backward pass in training mode, as oneDNN calls on memory that is laid out once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from paddle import nn

from cifar_hapi.engine import onednn
from cifar_hapi.engine.memory import Buffer, BufferPool, convolved, floats_at
from cifar_hapi.engine.onednn import Call, Desc, Memory, Window
from cifar_hapi.engine.trace import Trace
from cifar_hapi.networks.layers import ConvNorm, GlobalAveragePool, GlobalMaxPool, MaxPool, PadShortcut, ResidualJoin

Plan = Callable[[], None]  # lays out a layer's backward pass, once those of all later layers are


class Value:
    """A feature map: where it lies and, once the backward pass is planned, where its gradient does."""

    def __init__(self, data: Buffer, needs_gradient: bool = True):
        self.data, self.desc, self.shape = data, data.memory.desc, data.memory.desc.shape
        self.memory = data.memory
        self.needs_gradient = needs_gradient
        self.gradient: Buffer | None = None


class TrainingProgram:
    """Computes features and gradients for one shape of input. `forward` keeps what `backward` needs, so that one
    program serves one forward pass at a time.

    parameters: the tensors that get a gradient, in the order of `backward`'s results. features: how many an image has.
    """

    def __init__(
        self, trace: Trace, shape: Sequence[int], channels_last: bool, dtype: onednn.Dtype, input_gradient: bool = False
    ):
        """shape: [N, C, H, W] of the input, whichever way its memory is laid out."""
        self.parameters: list[Any] = []
        self.features = 0
        self._dtype = dtype
        self._pool = BufferPool()
        self._forward: list[Call | _Copy] = []
        self._backward: list[Call | _Copy] = []
        self._running: list[_RunningStatistics] = []
        self._parameter_memories: list[Memory] = []
        self._gradient_memories: list[Memory] = []
        self._source = Memory(Desc(shape, "float32", "nhwc" if channels_last else "nchw"))
        self._source_gradient = Memory(self._source.desc) if input_gradient else None
        first = Value(self._new(shape), input_gradient)
        self._reorder(self._forward, self._source, first.memory)
        plans = self._lay_out(trace, first)
        for plan in reversed(plans):
            plan()
        if self._source_gradient and first.gradient:
            self._reorder(self._backward, first.gradient.memory, self._source_gradient)

    def forward(self, source: int, features: int) -> None:
        """Read the input at the address `source`, write the features, float32 [N, C], at `features`."""
        self._source.point_to(source)
        self._features.point_to(features)
        self._point_to_parameters()
        for call in self._forward:
            call.run()
        for running in self._running:
            running.update()

    def backward(self, gradient: int, gradients: Sequence[int], source_gradient: int = 0) -> None:
        """Read the gradient of the features; write those of `parameters`, float32, and of the input if planned."""
        self._features_gradient.point_to(gradient)
        for memory, address in zip(self._gradient_memories, gradients, strict=True):
            memory.point_to(address)
        if self._source_gradient:
            self._source_gradient.point_to(source_gradient)
        self._point_to_parameters()
        for call in self._backward:
            call.run()

    def _point_to_parameters(self) -> None:
        for memory, parameter in zip(self._parameter_memories, self.parameters, strict=True):
            memory.point_to(parameter.data_ptr())

    def _lay_out(self, trace: Trace, first: Value) -> list[Plan]:
        values, plans = {0: first}, []
        for operation in trace.operations:
            build = _BUILDERS[type(operation.layer)]
            values[operation.output], plan = build(self, operation.layer, *(values[each] for each in operation.inputs))
            plans.append(plan)
        return plans

    # Each of the following lays out a layer's forward pass and returns its result and the plan of its backward pass.

    def _conv_norm(self, layer: ConvNorm, x: Value) -> tuple[Value, Plan]:
        y, plan_convolution = self._convolution(layer.conv, x)
        z, plan_norm = self._norm(layer.norm, y, isinstance(layer.activation, nn.ReLU))

        def plan() -> None:
            plan_norm()
            plan_convolution()

        return z, plan

    def _convolution(self, conv: nn.Conv2D, x: Value) -> tuple[Value, Plan]:
        shape, stride, padding = tuple(conv.weight.shape), conv._stride[0], conv._padding
        y = Value(self._new(convolved(x.shape, shape, stride, padding)))
        free_layout = Desc(shape, self._dtype, "any")
        geometry = (stride, padding)
        forward = onednn.convolution(x.desc, free_layout, y.desc, *geometry)
        weights, gradient = self._parameter(conv.weight, Desc(shape, "float32", "oihw"))
        packed = Buffer(forward.weights).memory
        self._reorder(self._forward, weights, packed)
        self._forward.append(Call(forward, {"src": x.memory, "weights": packed, "dst": y.memory}))

        def plan() -> None:
            gy = self._taken_gradient(y)
            back = onednn.convolution_backward_weights(x.desc, free_layout, y.desc, *geometry, forward)
            found = Buffer(back.diff_weights).memory
            self._backward.append(Call(back, {"src": x.memory, "diff_dst": gy.memory, "diff_weights": found}))
            self._reorder(self._backward, found, gradient)
            if x.needs_gradient:
                back = onednn.convolution_backward_data(x.desc, free_layout, y.desc, *geometry, forward)
                again = Buffer(back.weights).memory
                gx = self._pool.take(x.desc)
                self._reorder(self._backward, weights, again)
                self._backward.append(Call(back, {"diff_dst": gy.memory, "weights": again, "diff_src": gx.memory}))
                self._add_gradient(x, gx)
            self._pool.give(gy)

        return y, plan

    def _norm(self, norm: nn.BatchNorm2D, y: Value, relu: bool) -> tuple[Value, Plan]:
        z = Value(self._new(y.shape))
        channels = Desc((y.shape[1],), "float32", "a")
        scale, scale_gradient = self._parameter(norm.weight, channels)
        shift, shift_gradient = self._parameter(norm.bias, channels)
        mean, variance = Buffer(channels), Buffer(channels)
        forward = onednn.batch_norm(y.desc, norm._epsilon, relu, batch_statistics=True)
        known = {"src": y.memory, "mean": mean.memory, "variance": variance.memory, "scale": scale}
        known |= {"workspace": Buffer(forward.workspace).memory} if relu else {}
        self._forward.append(Call(forward, {**known, "shift": shift, "dst": z.memory}))
        self._running.append(_RunningStatistics(norm, mean.floats(), variance.floats()))

        def plan() -> None:
            gz, gy = self._taken_gradient(z), self._pool.take(y.desc)
            back = onednn.batch_norm_backward(y.desc, norm._epsilon, relu, True, forward)
            found = {"diff_src": gy.memory, "diff_scale": scale_gradient, "diff_shift": shift_gradient}
            self._backward.append(Call(back, {**known, "diff_dst": gz.memory, **found}))
            self._pool.give(gz)
            self._add_gradient(y, gy)

        return z, plan

    def _join(self, layer: ResidualJoin, y: Value, shortcut: Value) -> tuple[Value, Plan]:
        z = Value(y.data)  # in the place of y, which nothing else reads
        added = {"src": y.memory, "src1": shortcut.memory, "dst": z.memory}
        self._forward.append(Call(onednn.add(z.desc, relu=True), added))

        def plan() -> None:
            gz = self._taken_gradient(z)
            back = onednn.relu_backward(z.desc)
            self._backward.append(Call(back, {"diff_dst": gz.memory, "dst": z.memory, "diff_src": gz.memory}))
            gz.users += 1  # the gradient of both summands
            self._add_gradient(y, gz)
            self._add_gradient(shortcut, gz)

        return z, plan

    def _pad_shortcut(self, layer: PadShortcut, x: Value) -> tuple[Value, Plan]:
        (n, c, h, w), step = x.shape, layer.stride
        z = Value(self._new((n, c + layer.new_channels, -(-h // step), -(-w // step))))
        self._forward.append(_Copy(x.data.image()[:, ::step, ::step], z.data.image()[..., :c]))

        def plan() -> None:
            gz, gx = self._taken_gradient(z), Buffer(x.desc)  # of its own: between the pixels it stays zero
            self._backward.append(_Copy(gz.image()[..., :c], gx.image()[:, ::step, ::step]))
            self._pool.give(gz)
            self._add_gradient(x, gx)

        return z, plan

    def _max_pool(self, layer: MaxPool, x: Value) -> tuple[Value, Plan]:
        kernel, stride = layer.ksize, layer.ksize if layer.stride is None else layer.stride
        return self._pooled(Window("max", (kernel, kernel), (stride, stride), layer.padding), x)

    def _pooled(self, window: Window, x: Value) -> tuple[Value, Plan]:
        z = Value(self._new((*x.shape[:2], *window.result(x.shape[2:]))))
        forward = onednn.pool(window, x.desc, z.desc)
        workspace = {"workspace": Buffer(forward.workspace).memory} if window.kind == "max" else {}
        self._forward.append(Call(forward, {"src": x.memory, "dst": z.memory, **workspace}))

        def plan() -> None:
            gz, gx = self._taken_gradient(z), self._pool.take(x.desc)
            back = onednn.pool_backward(window, x.desc, z.desc, forward)
            self._backward.append(Call(back, {"diff_dst": gz.memory, "diff_src": gx.memory, **workspace}))
            self._pool.give(gz)
            self._add_gradient(x, gx)

        return z, plan

    def _global_pool(self, layer: GlobalAveragePool | GlobalMaxPool, x: Value) -> tuple[Value, Plan]:
        """The last layer: its result is the features, in memory of the caller's."""
        n, self.features, h, w = x.shape
        kind: Any = "average" if isinstance(layer, GlobalAveragePool) else "max"
        z, plan_pool = self._pooled(Window(kind, (h, w), (1, 1)), x)
        features = Desc((n, self.features, 1, 1), "float32", "nhwc")
        self._features, self._features_gradient = Memory(features), Memory(features)
        self._reorder(self._forward, z.memory, self._features)

        def plan() -> None:
            z.gradient = self._pool.take(z.desc)
            self._reorder(self._backward, self._features_gradient, z.gradient.memory)
            plan_pool()

        return z, plan

    def _new(self, shape: Sequence[int]) -> Buffer:
        return Buffer(Desc(shape, self._dtype, "nhwc"))

    def _parameter(self, parameter: Any, desc: Desc) -> tuple[Memory, Memory]:
        """Memory that is pointed to `parameter`, and to its gradient, when the program runs."""
        self.parameters.append(parameter)
        self._parameter_memories.append(Memory(desc))
        self._gradient_memories.append(Memory(desc))
        return self._parameter_memories[-1], self._gradient_memories[-1]

    def _reorder(self, calls: list[Call | _Copy], source: Memory, target: Memory) -> None:
        calls.append(Call(onednn.reorder(source.desc, target.desc), {"src": source, "dst": target}))

    def _taken_gradient(self, value: Value) -> Buffer:
        """The gradient of `value`, which all its readers have given their part to; the caller gives it back."""
        assert value.gradient is not None, "a value that nothing reads"
        return value.gradient

    def _add_gradient(self, value: Value, part: Buffer) -> None:
        """`part`, which the caller gives away, is one of the summands of the gradient of `value`."""
        if not value.needs_gradient:
            self._pool.give(part)
            return
        if value.gradient is None:
            value.gradient = part
            return
        summands = (value.gradient, part)
        total = next((each for each in summands if each.users == 1 and each.pooled), None) or self._pool.take(
            value.desc
        )
        names = {"src": summands[0].memory, "src1": summands[1].memory, "dst": total.memory}
        self._backward.append(Call(onednn.add(value.desc), names))
        for each in summands:
            if each is not total:
                self._pool.give(each)
        value.gradient = total


class _Copy:
    """A copy between views of feature maps."""

    def __init__(self, source: np.ndarray, target: np.ndarray):
        self.source, self.target = source, target

    def run(self) -> None:
        np.copyto(self.target, self.source)


class _RunningStatistics:
    """Keeps running mean and variance as Paddle does: biased, and `momentum` is the weight of the old value."""

    def __init__(self, norm: nn.BatchNorm2D, mean: np.ndarray, variance: np.ndarray):
        self._norm, self._batch = norm, (mean, variance)

    def update(self) -> None:
        momentum = self._norm._momentum
        for running, batch in zip((self._norm._mean, self._norm._variance), self._batch, strict=True):
            array = floats_at(running.data_ptr(), batch.size)
            array *= momentum
            array += (1 - momentum) * batch


_BUILDERS: dict[type, Callable[..., tuple[Value, Plan]]] = {
    ConvNorm: TrainingProgram._conv_norm,
    GlobalAveragePool: TrainingProgram._global_pool,
    GlobalMaxPool: TrainingProgram._global_pool,
    MaxPool: TrainingProgram._max_pool,
    PadShortcut: TrainingProgram._pad_shortcut,
    ResidualJoin: TrainingProgram._join,
}
