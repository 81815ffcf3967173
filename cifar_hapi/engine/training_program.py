"""A traced network's forward pass, and its backward pass, with batch statistics where its layers use them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cifar_hapi.engine import layers, primitives, winograd
from cifar_hapi.engine.memory import Buffer, floats_at
from cifar_hapi.engine.onednn import Desc, Dtype, Memory
from cifar_hapi.engine.primitives import Convolution, Geometry
from cifar_hapi.engine.program import (
    KeptNaN,
    NoFastForm,
    PaddedCopy,
    Program,
    Step,
    Tensors,
    check_channels,
    convolved,
    fast_form,
    fastest,
    kernels,
    output_channels,
    padded,
    told_by_layer,
    weights_desc,
)
from cifar_hapi.engine.strips import Strips, images_in_a_strip
from cifar_hapi.engine.trace import Operation, Trace
from cifar_hapi.engine.winograd import WinogradConvolution

Plan = Callable[[], None]  # lays out an operation's backward pass, once those of all later ones are


class Value:
    """A feature map: where it lies and, once the backward pass is planned, where its gradient does.

    needs_gradient: whether anything before it learns. replaceable: nothing but its one reader needs what it holds.
    """

    def __init__(self, data: Buffer, needs_gradient: bool, replaceable: bool = False):
        self.data, self.desc, self.shape, self.memory = data, data.desc, data.desc.shape, data.memory
        self.needs_gradient, self.replaceable = needs_gradient, replaceable
        self.gradient: Buffer | None = None


class TrainingProgram(Program):
    """`forward` keeps what `backward` needs, so that one program serves one forward pass at a time.

    needed: for each slot of the path, whether its gradient is. input_gradient: whether the input's is.
    """

    def __init__(
        self, path: Trace, shape: Sequence[int], dtype: Dtype, needed: Sequence[bool], input_gradient: bool = False
    ):
        super().__init__(path, shape, dtype)
        self._needed = dict(zip(path.slots, needed, strict=True))
        self._gradients: dict[tuple[Any, str], Memory] = {}
        self._forward: list[Step] = []
        self._backward: list[Step] = []
        self._running: list[_RunningStatistics] = []
        self._strips: dict[tuple[str, tuple[int, ...]], Buffer] = {}
        first = Value(self._pool.keep(self._input_map(shape)), input_gradient)
        self._reorder(self._forward, self._source, first.memory)
        output, plans = self._lay_out(first)
        self._finish(output)
        for operation, plan in reversed(plans):
            with told_by_layer(operation.layer):
                plan()
        self._source_gradient = Memory(self._source.desc)
        if first.gradient:
            self._reorder(self._backward, first.gradient.memory, self._source_gradient)
        self._scratchpad.allocate()

    def forward(self, source: int, result: int, tensors: Tensors) -> None:
        """Read the input at the address `source`, write the output, float32, at `result`."""
        self._source.point_to(source)
        self._result.point_to(result)
        self._bind(tensors)
        for step in self._forward:
            step.run()
        for running in self._running:
            running.update(self._addresses)

    def backward(self, gradient: int, gradients: Sequence[int], source_gradient: int, tensors: Tensors) -> None:
        """Read the gradient of the output; write those of the slots that need one, float32, and of the input."""
        self._result_gradient.point_to(gradient)
        self._source_gradient.point_to(source_gradient)
        self._bind(tensors)
        wanted = (slot for slot in self._path.slots if self._needed[slot])
        for slot, address in zip(wanted, gradients, strict=True):
            self._gradients[slot].point_to(address)
        for step in self._backward:
            step.run()

    def _lay_out(self, first: Value) -> tuple[Value, list[tuple[Operation, Plan]]]:
        values, plans = {0: first}, []
        for operation in self._path.operations:
            inputs = [values[number] for number in operation.inputs]
            with told_by_layer(operation.layer):
                values[operation.output], plan = _BUILDERS[operation.kind](self, operation, *inputs)
            if values[operation.output].needs_gradient:
                plans.append((operation, plan))
        return values[self._path.output], plans

    def _finish(self, output: Value) -> None:
        """The output in memory of the caller's, and its gradient from there."""
        self._write_result(self._forward, output.data)
        self._result_gradient = Memory(self._result.desc)
        if output.needs_gradient:
            output.gradient = self._pool.take(output.desc)
            self._reorder(self._backward, self._result_gradient, output.gradient.memory)

    # Each of the following lays out an operation's forward pass, returns its result and the plan of its backward pass.

    def _convolution(self, operation: Operation, x: Value) -> tuple[Value, Plan]:
        layer, channels = operation.layer, output_channels(operation.layer, x.desc)
        geometry = layers.convolution_geometry(layer)
        learns = self._learns(layer, "weight") or self._learns(layer, "bias")
        y = self._new(convolved(x.shape, channels, geometry), x.needs_gradient or learns, operation, replaceable=True)
        if layer.bias is None:
            saving = winograd.convolution(x.desc, y.desc, geometry, self._pool, self._call)
            if saving:
                return y, self._winograd(saving, layer, x, y, learns)
        forward = fastest(kernels(layer, x.desc, y.desc, self._dtype), Convolution.forward, layer)
        weights = self._convolve(self._forward, layer, forward, x.data, y.data)

        def plan() -> None:
            gy = self._gradient(y)
            if learns:
                self._plan_weights(layer, x, y, gy)
            if x.needs_gradient:
                self._plan_data(layer, x, y, gy, weights)
            self._pool.give(gy)

        return y, plan

    def _winograd(self, convolution: WinogradConvolution, layer: Any, x: Value, y: Value, learns: bool) -> Plan:
        convolution.forward(self._forward, self._parameter(layer, "weight", weights_desc(layer)), x.data, y.data)

        def plan() -> None:
            gy, gx = self._gradient(y), self._pool.take(x.desc) if x.needs_gradient else None
            found = self._parameter_gradient(layer, "weight", weights_desc(layer)) if learns else None
            convolution.backward(self._backward, x.data, gy, gx, found)
            self._pool.give(gy)
            if gx:
                self._add_gradient(x, gx)

        return plan

    def _plan_weights(self, layer: Any, x: Value, y: Value, gy: Buffer) -> None:
        def made(convolution: Convolution) -> Any:
            full = dataclasses.replace(convolution, weights=Desc(weights_desc(layer).shape, "float32", "any"))
            return full.backward_weights(convolution.forward())

        seen, given = self._side_by_side(layers.convolution_geometry(layer), x.data, gy)
        back = fastest(kernels(layer, seen.desc, given.desc, self._dtype), made, layer)
        source = self._laid_out(self._backward, seen, back.src)
        gradient = self._laid_out(self._backward, given, back.dst)
        found = self._pool.keep(back.primitive.diff_weights)
        memories = {"src": source.memory, "diff_dst": gradient.memory, "diff_weights": found.memory}
        if layers.parameter(layer, "bias") is not None:
            memories["diff_bias"] = self._parameter_gradient(layer, "bias", Desc((y.shape[1],), "float32", "a"))
        self._call(self._backward, back.primitive, memories)
        if self._learns(layer, "weight"):
            target = self._parameter_gradient(layer, "weight", weights_desc(layer))
            self._reorder(self._backward, found.memory, target)
        self._pool.give(source)
        self._pool.give(gradient)

    def _side_by_side(self, geometry: Geometry, x: Buffer, gy: Buffer) -> Sequence[Buffer]:
        """Both maps in strips of several images, where the gradient of the weights between them is faster so."""
        count = images_in_a_strip(x.desc, gy.desc, geometry)
        if count == 1:
            return x, gy
        laid = []
        for role, image in (("x", x), ("gy", gy)):
            strips = Strips(image.desc, geometry.before[1], count)
            laid.append(self._strips_of(role, strips.desc))
            source, places = Memory(strips.images, image.array), Memory(strips.places, laid[-1].array)
            self._reorder(self._backward, source, places)
        return laid

    def _strips_of(self, role: str, desc: Desc) -> Buffer:
        """Memory for such strips, of all layers: not the pool's, as the padding in it must stay zero."""
        key = role, desc.shape
        if key not in self._strips:
            self._strips[key] = self._pool.keep(desc)
        return self._strips[key]

    def _plan_data(self, layer: Any, x: Value, y: Value, gy: Buffer, weights: Memory) -> None:
        def made(convolution: Convolution) -> Any:
            return convolution.backward_data(convolution.forward())

        back = fastest(kernels(layer, x.desc, y.desc, self._dtype), made, layer)
        packed = self._pool.keep(back.primitive.weights).memory
        self._reorder(self._backward, weights, packed)
        gradient = self._laid_out(self._backward, gy, back.dst)
        gx = self._pool.take(Desc(x.shape, self._dtype, back.src))
        memories = {"diff_dst": gradient.memory, "weights": packed, "diff_src": gx.memory}
        self._call(self._backward, back.primitive, memories)
        self._pool.give(gradient)
        own = self._laid_out(self._backward, gx, x.desc.tag)
        self._pool.give(gx)
        self._add_gradient(x, own)

    def _norm(self, operation: Operation, y: Value) -> tuple[Value, Plan]:
        layer, relu, epsilon = operation.layer, operation.relu, layers.epsilon(operation.layer)
        n, c, h, w = y.shape
        check_channels(layer, y.desc)
        batch_statistics = layers.uses_batch_statistics(layer)
        if batch_statistics and n * h * w == 1:
            raise NoFastForm(None)  # Paddle leaves a single value a channel as it is
        learns = self._learns(layer, "weight") or self._learns(layer, "bias")
        z = self._new(y.shape, y.needs_gradient or learns, operation, replaceable=True)
        channels = Desc((c,), "float32", "a")
        scale, shift = self._parameter(layer, "weight", channels), self._parameter(layer, "bias", channels)
        if batch_statistics:
            batch = self._pool.keep(channels), self._pool.keep(channels)
            self._running.append(_RunningStatistics(layer, batch))
            mean, variance = (each.memory for each in batch)
        else:
            mean, variance = (self._parameter(layer, name, channels) for name in ("_mean", "_variance"))
        forward = fast_form(primitives.batch_norm(y.desc, epsilon, relu, batch_statistics), layer)
        known = {"src": y.memory, "mean": mean, "variance": variance, "scale": scale}
        known |= {"workspace": self._pool.keep(forward.workspace).memory} if relu else {}
        self._call(self._forward, forward, {**known, "shift": shift, "dst": z.memory})

        def plan() -> None:
            gz, gy = self._gradient(z), self._pool.take(y.desc)
            back = primitives.batch_norm_backward(y.desc, epsilon, relu, batch_statistics, forward)
            found = {f"diff_{role}": self._parameter_gradient(layer, name, channels) for role, name in _ROLES}
            self._call(self._backward, back, {**known, "diff_dst": gz.memory, "diff_src": gy.memory, **found})
            self._pool.give(gz)
            self._add_gradient(y, gy)

        return z, plan

    def _relu(self, operation: Operation, y: Value) -> tuple[Value, Plan]:
        z = self._in_place_of(y, y.needs_gradient) or self._new(y.shape, y.needs_gradient, operation)
        source = self._laid_out(self._forward, y.data, z.desc.tag)
        self._call(self._forward, primitives.relu(z.desc), {"src": source.memory, "dst": z.memory})
        self._pool.give(source)

        def plan() -> None:
            gz = self._relu_gradient(z)
            self._add_gradient(y, self._laid_out(self._backward, gz, y.desc.tag))
            self._pool.give(gz)

        return z, plan

    def _activation(self, operation: Operation, y: Value) -> tuple[Value, Plan]:
        which, layer = layers.activation(operation.layer), operation.layer
        z = Value(self._pool.keep(y.desc), y.needs_gradient)  # apart from `y`, which the backward pass reads
        forward = fast_form(primitives.activation(y.desc, which), layer)
        self._call(self._forward, forward, {"src": y.memory, "dst": z.memory})

        def plan() -> None:
            gz = self._gradient(z)
            gy = gz if gz.overwritable else self._pool.take(y.desc)
            back = fast_form(primitives.activation_backward(y.desc, which), layer)
            self._call(self._backward, back, {"src": y.memory, "diff_dst": gz.memory, "diff_src": gy.memory})
            if gy is not gz:
                self._pool.give(gz)
            self._add_gradient(y, gy)

        return z, plan

    def _add(self, operation: Operation, y: Value, other: Value) -> tuple[Value, Plan]:
        if y.shape != other.shape:
            raise NoFastForm(None)  # Paddle would broadcast
        needs = y.needs_gradient or other.needs_gradient
        z = self._in_place_of(y, needs) or self._new(y.shape, needs, operation)
        summands = [self._laid_out(self._forward, each.data, z.desc.tag) for each in (y, other)]
        added = {"src": summands[0].memory, "src1": summands[1].memory, "dst": z.memory}
        self._call(self._forward, primitives.add(z.desc, operation.relu), added)
        for summand in summands:
            self._pool.give(summand)

        def plan() -> None:
            gz = self._relu_gradient(z) if operation.relu else self._gradient(z)
            for each in (y, other):
                self._add_gradient(each, self._laid_out(self._backward, gz, each.desc.tag))
            self._pool.give(gz)

        return z, plan

    def _pad(self, operation: Operation, x: Value) -> tuple[Value, Plan]:
        z = self._new(padded(operation.layer, x.shape), x.needs_gradient, operation)
        copy = PaddedCopy(x.desc, z.desc, operation.layer.stride)
        source = self._laid_out(self._forward, x.data, copy.tag)
        target = z.data if copy.tag == z.desc.tag else self._pool.keep(Desc(z.shape, self._dtype, copy.tag))
        self._forward.append(copy.between(source, target))
        self._pool.give(source)
        if target is not z.data:
            self._reorder(self._forward, target.memory, z.memory)

        def plan() -> None:
            gz = self._gradient(z)
            gradient = self._laid_out(self._backward, gz, copy.tag)
            gx = self._pool.keep(Desc(x.shape, self._dtype, copy.tag))  # nobody else's: between pixels it holds zeros
            self._backward.append(copy.between(gradient, gx, back=True))
            self._pool.give(gradient)
            self._pool.give(gz)
            self._add_gradient(x, self._laid_out(self._backward, gx, x.desc.tag))

        return z, plan

    def _pooled(self, operation: Operation, x: Value) -> tuple[Value, Plan]:
        window = layers.pool_window(operation.layer, x.shape[2:])
        z = self._new((*x.shape[:2], *window.geometry.result(x.shape[2:])), x.needs_gradient, operation)
        source = self._laid_out(self._forward, x.data, z.desc.tag)
        forward = fast_form(primitives.pool(window, source.desc, z.desc), operation.layer)
        workspace = {"workspace": self._pool.keep(forward.workspace).memory} if window.kind == "max" else {}
        self._call(self._forward, forward, {"src": source.memory, "dst": z.memory, **workspace})
        self._forward += [KeptNaN(z.data)] if window.kind == "max" else []
        self._pool.give(source)

        def plan() -> None:
            gz, gx = self._gradient(z), self._pool.take(source.desc)
            back = primitives.pool_backward(window, source.desc, z.desc, forward)
            self._call(self._backward, back, {"diff_dst": gz.memory, "diff_src": gx.memory, **workspace})
            self._pool.give(gz)
            own = self._laid_out(self._backward, gx, x.desc.tag)
            self._pool.give(gx)
            self._add_gradient(x, own)

        return z, plan

    def _new(
        self, shape: Sequence[int], needs_gradient: bool, operation: Operation, replaceable: bool = False
    ) -> Value:
        single = self._path.readers[operation.output] == 1
        return Value(self._pool.keep(self._map(shape)), needs_gradient, replaceable and single)

    def _in_place_of(self, y: Value, needs_gradient: bool) -> Value | None:
        """A value in the place of `y`, if nothing needs what that holds."""
        return Value(y.data, needs_gradient) if y.replaceable else None

    def _learns(self, layer: Any, name: str) -> bool:
        return self._needed.get((layer, name), False)

    def _parameter_gradient(self, layer: Any, name: str, desc: Desc) -> Memory:
        """Where a parameter's gradient goes: to the caller, or nowhere."""
        if not self._learns(layer, name):
            return self._pool.keep(desc).memory
        self._gradients[layer, name] = Memory(desc)
        return self._gradients[layer, name]

    def _gradient(self, value: Value) -> Buffer:
        """The gradient of `value`, which all its readers have given their part to; the caller gives it back."""
        if value.gradient is None:  # its readers pass nothing on
            value.gradient = self._pool.keep(value.desc)
        return value.gradient

    def _relu_gradient(self, z: Value) -> Buffer:
        """The gradient before the ReLU whose result is `z`; the caller gives it away."""
        gz = self._gradient(z)
        target = gz if gz.overwritable else self._pool.take(z.desc)
        names = {"diff_dst": gz.memory, "dst": z.memory, "diff_src": target.memory}
        self._call(self._backward, primitives.relu_backward(z.desc), names)
        if target is not gz:
            self._pool.give(gz)
        return target

    def _add_gradient(self, value: Value, part: Buffer) -> None:
        """`part`, which the caller gives away, is one of the summands of the gradient of `value`."""
        if not value.needs_gradient:
            self._pool.give(part)
            return
        if value.gradient is None:
            value.gradient = part
            return
        summands = (value.gradient, part)
        total = next((each for each in summands if each.overwritable), None) or self._pool.take(value.desc)
        names = {"src": summands[0].memory, "src1": summands[1].memory, "dst": total.memory}
        self._call(self._backward, primitives.add(value.desc), names)
        for each in summands:
            if each is not total:
                self._pool.give(each)
        value.gradient = total


class _RunningStatistics:
    """Keeps running mean and variance as Paddle does: biased, and `momentum` is the weight of the old value."""

    def __init__(self, layer: Any, batch: tuple[Buffer, Buffer]):
        self._layer, self._batch = layer, [each.floats() for each in batch]

    def update(self, addresses: Mapping[tuple[Any, str], int]) -> None:
        momentum = np.float32(layers.momentum(self._layer))
        for name, batch in zip(("_mean", "_variance"), self._batch, strict=True):
            running = floats_at(addresses[self._layer, name], batch.size)
            running *= momentum
            with np.errstate(all="ignore"):  # infinities of both signs, which Paddle says nothing about
                running += (1 - momentum) * batch


_ROLES = (("scale", "weight"), ("shift", "bias"))
_BUILDERS: dict[str, Callable[..., tuple[Value, Plan]]] = {
    "convolution": TrainingProgram._convolution,
    "norm": TrainingProgram._norm,
    "relu": TrainingProgram._relu,
    "activation": TrainingProgram._activation,
    "add": TrainingProgram._add,
    "pad": TrainingProgram._pad,
    "pool": TrainingProgram._pooled,
}
