"""A traced network's forward pass in evaluation mode: convolutions take in batch norm, residual sum, activation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from cifar_hapi.engine import layers, primitives, winograd
from cifar_hapi.engine.memory import Buffer, BufferPool, floats_at
from cifar_hapi.engine.onednn import Desc, Dtype, PostOps, PrimitiveDesc
from cifar_hapi.engine.primitives import Activation, Convolution
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
from cifar_hapi.engine.trace import Operation, Trace
from cifar_hapi.engine.winograd import WinogradConvolution


@dataclass(frozen=True)
class Chain:
    """Operations that are one call: a convolution with what follows it, or any other operation alone.

    summand: the number of the value that is added to the convolution's result, after batch norm and before the
    activation.
    """

    first: Operation
    norm: Operation | None
    summand: int | None
    activation: Activation | None
    output: int

    @property
    def bare(self) -> bool:
        """Whether nothing follows the first operation."""
        return self.norm is None and self.summand is None and self.activation is None

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.first.inputs if self.summand is None else (*self.first.inputs, self.summand)


class InferenceProgram(Program):
    """Parameters and running statistics are read anew every time, so that no result is ever stale."""

    def __init__(self, path: Trace, shape: Sequence[int], dtype: Dtype):
        super().__init__(path, shape, dtype)
        self._steps: list[Step] = []
        self._norms: list[_AffineNorm] = []
        chains = chained(path)
        self._readers = Counter([path.output, *(number for chain in chains for number in chain.inputs)])
        first = self._taken(self._input_map(shape), 0)
        self._reorder(self._steps, self._source, first.memory)
        values = {0: first}
        for chain in chains:
            inputs = [values[number] for number in chain.inputs]
            with told_by_layer(chain.first.layer):
                values[chain.output] = _BUILDERS[chain.first.kind](self, chain, *inputs)
            for value in inputs:
                self._pool.give(value)
        self._write_result(self._steps, values[path.output])
        self._scratchpad.allocate()

    def forward(self, source: int, result: int, tensors: Tensors) -> None:
        """Read the input at the address `source`, write the output, float32, at `result`."""
        self._source.point_to(source)
        self._result.point_to(result)
        self._bind(tensors)
        for norm in self._norms:
            norm.update(self._addresses)
        for step in self._steps:
            step.run()

    # Each of the following lays out a chain and returns its result.

    def _convolution(self, chain: Chain, x: Buffer, summand: Buffer | None = None) -> Buffer:
        layer, channels = chain.first.layer, output_channels(chain.first.layer, x.desc)
        geometry = layers.convolution_geometry(layer)
        z = self._taken(self._map(convolved(x.desc.shape, channels, geometry)), chain.output)
        if summand and summand.desc.shape != z.desc.shape:
            raise NoFastForm(None)  # Paddle would broadcast
        norm = _AffineNorm(chain.norm.layer, channels, self._pool) if chain.norm else None
        self._norms += [norm] if norm else []
        if layer.bias is None and (norm or chain.bare):
            saving = winograd.convolution(x.desc, z.desc, geometry, self._pool, self._call)
            if saving:
                self._winograd(saving, chain, norm, x, z, summand)
                return z

        def made(convolution: Convolution) -> PrimitiveDesc:
            post = PostOps()
            if norm:
                post.multiply(norm.factor.desc).add(norm.offset.desc)
            return convolution.forward(training=False, post=_ended(post, chain, convolution.dst))

        forward = fastest(kernels(layer, x.desc, z.desc, self._dtype), made, layer)
        added = [self._laid_out(self._steps, summand, forward.dst)] if summand else []
        operands = [norm.factor, norm.offset, *added] if norm else added
        self._convolve(self._steps, layer, forward, x, z, operands)
        for each in added:
            self._pool.give(each)
        return z

    def _winograd(
        self,
        convolution: WinogradConvolution,
        chain: Chain,
        norm: _AffineNorm | None,
        x: Buffer,
        z: Buffer,
        summand: Buffer | None,
    ) -> None:
        """The convolution of some images at a time, and what follows it, if anything, while they are in the cache."""
        added = self._laid_out(self._steps, summand, z.desc.tag) if summand else None

        def end(norm: _AffineNorm, start: int, stop: int) -> None:
            images = z.part(start, stop)
            post = _ended(PostOps().add(norm.offset.desc), chain, images.desc)
            memories = {"src": images, "src1": norm.factor.memory, "dst": images, "post0": norm.offset.memory}
            memories |= {"post1": added.part(start, stop)} if added else {}
            self._call(self._steps, primitives.multiply(images.desc, norm.factor.desc, post), memories)

        weights = self._parameter(chain.first.layer, "weight", weights_desc(chain.first.layer))
        convolution.forward(self._steps, weights, x, z, partial(end, norm) if norm else None)
        if added:
            self._pool.give(added)

    def _norm(self, chain: Chain, y: Buffer) -> Buffer:
        layer, channels = chain.first.layer, Desc((y.desc.shape[1],), "float32", "a")
        check_channels(layer, y.desc)
        z = self._taken(y.desc, chain.output)
        names = {"scale": "weight", "shift": "bias", "mean": "_mean", "variance": "_variance"}
        known = {role: self._parameter(layer, name, channels) for role, name in names.items()}
        primitive = primitives.batch_norm(y.desc, layers.epsilon(layer), chain.first.relu, False, training=False)
        primitive = fast_form(primitive, layer)
        self._call(self._steps, primitive, {"src": y.memory, "dst": z.memory, **known})
        return z

    def _relu(self, chain: Chain, y: Buffer) -> Buffer:
        z = self._taken(y.desc, chain.output)
        self._call(self._steps, primitives.relu(y.desc), {"src": y.memory, "dst": z.memory})
        return z

    def _activation(self, chain: Chain, y: Buffer) -> Buffer:
        z, layer = self._taken(y.desc, chain.output), chain.first.layer
        primitive = fast_form(primitives.activation(y.desc, layers.activation(layer)), layer)
        self._call(self._steps, primitive, {"src": y.memory, "dst": z.memory})
        return z

    def _add(self, chain: Chain, y: Buffer, other: Buffer) -> Buffer:
        if y.desc.shape != other.desc.shape:
            raise NoFastForm(None)  # Paddle would broadcast
        z, other = self._taken(y.desc, chain.output), self._laid_out(self._steps, other, y.desc.tag)
        added = {"src": y.memory, "src1": other.memory, "dst": z.memory}
        self._call(self._steps, primitives.add(y.desc, chain.first.relu), added)
        self._pool.give(other)
        return z

    def _pad(self, chain: Chain, x: Buffer) -> Buffer:
        desc = self._map(padded(chain.first.layer, x.desc.shape))
        copy = PaddedCopy(x.desc, desc, chain.first.layer.stride)
        source = self._laid_out(self._steps, x, copy.tag)
        target = self._pool.keep(Desc(desc.shape, self._dtype, copy.tag))  # nobody else's: it holds zeros
        self._steps.append(copy.between(source, target))
        self._pool.give(source)
        if copy.tag == desc.tag:
            target.users = self._readers[chain.output]
            return target
        z = self._taken(desc, chain.output)
        self._reorder(self._steps, target.memory, z.memory)
        return z

    def _pooled(self, chain: Chain, x: Buffer) -> Buffer:
        shape, window = x.desc.shape, layers.pool_window(chain.first.layer, x.desc.shape[2:])
        z = self._taken(self._map((*shape[:2], *window.geometry.result(shape[2:]))), chain.output)
        source = self._laid_out(self._steps, x, z.desc.tag)
        primitive = fast_form(primitives.pool(window, source.desc, z.desc, training=False), chain.first.layer)
        self._call(self._steps, primitive, {"src": source.memory, "dst": z.memory})
        self._steps += [KeptNaN(z)] if window.kind == "max" else []
        self._pool.give(source)
        return z

    def _taken(self, desc: Desc, number: int) -> Buffer:
        """Memory for the value of this number, until all its readers are done."""
        buffer = self._pool.take(desc)
        buffer.users = self._readers[number]
        return buffer


def chained(path: Trace) -> list[Chain]:
    """The operations of a trace, those that are one call taken together, each chain where its last operation stood."""
    chains: dict[int, Chain] = {}
    for operation in path.operations:
        longer = None
        for mine, *others in (operation.inputs, operation.inputs[::-1]):
            chain = chains.get(mine)
            if longer is None and chain and path.readers[mine] == 1:
                longer = _longer(chain, operation, *others)
                if longer:
                    del chains[mine]
        chains[operation.output] = longer or Chain(operation, None, None, None, operation.output)
    return list(chains.values())


def _longer(chain: Chain, operation: Operation, summand: int | None = None) -> Chain | None:
    """`chain` with `operation` behind it, None if that is not one call."""
    if chain.first.kind != "convolution" or chain.activation:
        return None
    then: Activation | None = "relu" if operation.relu else None
    if operation.kind == "norm" and not chain.norm and chain.summand is None:
        return replace(chain, norm=operation, activation=then, output=operation.output)
    if operation.kind == "relu":
        return replace(chain, activation="relu", output=operation.output)
    if operation.kind == "activation":
        return replace(chain, activation=layers.activation(operation.layer), output=operation.output)
    if operation.kind == "add" and chain.summand is None:
        return replace(chain, summand=summand, activation=then, output=operation.output)
    return None


def _ended(post: PostOps, chain: Chain, maps: Desc) -> PostOps:
    """`post`, then what follows the batch norm of a chain: the summand, which is like `maps`, and the activation."""
    if chain.summand is not None:
        post.add(maps)
    return primitives.followed_by(chain.activation, post) if chain.activation else post


class _AffineNorm:
    """Batch norm in evaluation mode: factor * x + offset, per channel."""

    def __init__(self, layer: Any, channels: int, pool: BufferPool):
        self._layer = layer
        self.factor, self.offset = (pool.keep(Desc((1, channels, 1, 1), "float32")) for _ in range(2))
        self._floats = self.factor.floats(), self.offset.floats()

    def update(self, addresses: Mapping[tuple[Any, str], int]) -> None:
        factor, offset = self._floats
        names = ("weight", "bias", "_mean", "_variance")
        scale, shift, mean, variance = (floats_at(addresses[self._layer, name], factor.size) for name in names)
        with np.errstate(all="ignore"):  # as Paddle, which computes with what isn't finite and says nothing
            np.divide(scale, np.sqrt(variance + np.float32(layers.epsilon(self._layer))), out=factor)
            np.subtract(shift, mean * factor, out=offset)


_BUILDERS: dict[str, Callable[..., Buffer]] = {
    "convolution": InferenceProgram._convolution,
    "norm": InferenceProgram._norm,
    "relu": InferenceProgram._relu,
    "activation": InferenceProgram._activation,
    "add": InferenceProgram._add,
    "pad": InferenceProgram._pad,
    "pool": InferenceProgram._pooled,
}
