"""How a network runs on the engine: its forward pass is replaced, its parameters and its state stay where they are."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import paddle
from paddle.autograd import PyLayer

from cifar_hapi.engine import onednn
from cifar_hapi.engine.inference_program import InferenceProgram
from cifar_hapi.engine.trace import Trace, trace
from cifar_hapi.engine.training_program import TrainingProgram
from cifar_hapi.networks.layers import ConvNorm
from cifar_hapi.runtime import threads

_MOST_SHAPES = 4  # of input that programs are kept for; each holds the memory of a whole pass


def accelerate(network: paddle.nn.Layer, dtype: onednn.Dtype) -> bool:
    """Make `network` run on oneDNN from now on; whether it is one that can (see `trace`)."""
    found = trace(network)
    if found is None:
        return False
    network.forward = _Execution(network, found, dtype)
    return True


def restore(network: paddle.nn.Layer) -> None:
    """Undo `accelerate`."""
    if isinstance(network.__dict__.get("forward"), _Execution):
        del network.forward


class _Execution:
    """The forward pass of one network."""

    def __init__(self, network: paddle.nn.Layer, path: Trace, dtype: onednn.Dtype):
        self._native = network.forward
        self._trace, self._dtype = path, dtype
        self._network = network
        self._blocks = [operation.layer for operation in path.operations if isinstance(operation.layer, ConvNorm)]
        self._channels_last = self._blocks[0].conv._data_format == "NHWC"
        self._programs: OrderedDict[Any, list[Any]] = OrderedDict()

    def __call__(self, x: Any) -> Any:
        if not self._can_run(x):
            return self._native(x)
        onednn.set_threads(threads())
        features = self._train(x) if self._blocks[0].norm.training else self._evaluate(x)
        for layer in self._trace.tail:
            features = layer(features)
        return features

    def _can_run(self, x: Any) -> bool:
        """Whether `x` and the state of the layers are what programs are made for."""
        if not (isinstance(x, paddle.Tensor) and x.ndim == 4 and x.dtype == paddle.float32 and x.place.is_cpu_place()):
            return False
        if not x.shape[0] or x.shape[3 if self._channels_last else 1] != self._blocks[0].conv.weight.shape[1]:
            return False
        training = self._blocks[0].norm.training
        if any(block.norm.training is not training or block.norm._use_global_stats for block in self._blocks):
            return False
        needs_gradient = paddle.is_grad_enabled() and (
            not x.stop_gradient or any(not block.conv.weight.stop_gradient for block in self._blocks)
        )
        return training or not needs_gradient

    def _train(self, x: Any) -> Any:
        x = x.contiguous()
        lease = _Lease(self._programs_for(x, True), lambda: self._build(TrainingProgram, x, not x.stop_gradient))
        return _Features.apply(lease, x, *lease.program.parameters)

    def _evaluate(self, x: Any) -> Any:
        x = x.contiguous()
        lease = _Lease(self._programs_for(x, False), lambda: self._build(InferenceProgram, x))
        features = paddle.empty([x.shape[0], lease.program.features], "float32")
        lease.program.forward(x.data_ptr(), features.data_ptr())
        return features

    def _programs_for(self, x: Any, training: bool) -> list[Any]:
        key = (tuple(x.shape), training, x.stop_gradient)
        programs = self._programs.setdefault(key, [])
        self._programs.move_to_end(key)
        while len(self._programs) > _MOST_SHAPES:
            self._programs.popitem(last=False)
        return programs

    def _build(self, kind: Any, x: Any, *more: Any) -> Any:
        n, *rest = x.shape
        c, h, w = (rest[2], *rest[:2]) if self._channels_last else rest
        return kind(self._trace, (n, c, h, w), self._channels_last, self._dtype, *more)


class _Lease:
    """A program that is in use, until its backward pass is done or nobody can ask for one any more."""

    def __init__(self, free: list[Any], build: Any):
        self._free = free
        self.program: Any = None  # if building fails
        self.program = free.pop() if free else build()

    def end(self) -> None:
        if self.program is not None:
            self._free.append(self.program)
            self.program = None

    def __del__(self) -> None:
        self.end()


class _Features(PyLayer):
    """The features of images, as one step of Paddle's automatic differentiation."""

    @staticmethod
    def forward(ctx: Any, lease: _Lease, x: Any, *parameters: Any) -> Any:
        features = paddle.empty([x.shape[0], lease.program.features], "float32")
        lease.program.forward(x.data_ptr(), features.data_ptr())
        ctx.lease = lease
        ctx.needed = [not tensor.stop_gradient for tensor in (x, *parameters)]
        ctx.source_shape = x.shape
        return features

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        program = ctx.lease.program  # not None: Paddle itself can't go through a PyLayer twice
        gradients = [paddle.empty(parameter.shape, "float32") for parameter in program.parameters]
        source = paddle.empty(ctx.source_shape, "float32") if ctx.needed[0] else None
        addresses = [tensor.data_ptr() for tensor in gradients]
        program.backward(gradient.contiguous().data_ptr(), addresses, source.data_ptr() if source is not None else 0)
        ctx.lease.end()
        found = [source, *gradients]
        return tuple(each if needed else None for each, needed in zip(found, ctx.needed, strict=True))
