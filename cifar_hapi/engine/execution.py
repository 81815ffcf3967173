"""How a network runs on the engine: forward passes are replaced; its parameters and its state stay where they are."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle.autograd import PyLayer

from cifar_hapi.engine import layers, onednn
from cifar_hapi.engine.inference_program import InferenceProgram
from cifar_hapi.engine.program import NoFastForm, Tensors
from cifar_hapi.engine.trace import Trace, trace
from cifar_hapi.engine.training_program import TrainingProgram
from cifar_hapi.runtime import threads

_MOST_BYTES = 2 * 2**30  # of idle programs of a network; those for the latest shape and modes are always kept
_MOST_IDLE = 2  # programs of one shape and mode that are kept when nobody uses them


def accelerate(network: paddle.nn.Layer, dtype: onednn.Dtype) -> bool:
    """Make `network` run on oneDNN from now on: as a whole, or those of its sub-layers that can; whether any can.

    How its `forward` passes feature maps from layer to layer is looked at once for each combination of layers in
    training and in evaluation mode: it must depend on nothing else. What the engine cannot run, and inputs and states
    of the network that it isn't made for, run natively.
    """
    return _accelerate(network, dtype, frozenset())


def restore(network: paddle.nn.Layer) -> None:
    """Undo `accelerate`."""
    for layer in [network, *network.sublayers()]:
        if isinstance(layer.__dict__.get("forward"), _Execution):
            del layer.forward


def accelerated(network: paddle.nn.Layer) -> bool:
    """Whether any part of `network` runs on oneDNN."""
    return any(isinstance(layer.__dict__.get("forward"), _Execution) for layer in [network, *network.sublayers()])


def _accelerate(network: paddle.nn.Layer, dtype: onednn.Dtype, unknown: frozenset[int]) -> bool:
    if "forward" in network.__dict__:
        return False
    if trace(network, unknown):
        network.forward = _Execution(network, dtype, unknown)
        return True
    found = [_accelerate(child, dtype, unknown) for child in network.children()]
    return any(found)


class _Execution:
    """The forward pass of a network, or of a part of one that is run as a whole."""

    def __init__(self, network: paddle.nn.Layer, dtype: onednn.Dtype, unknown: frozenset[int]):
        self._network, self._dtype, self._unknown = network, dtype, unknown
        self._traces: dict[Any, Trace | None] = {}
        self._programs = _Programs()
        self._checked: Any = None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        path = self._path() if len(inputs) == 1 and not named and _is_map(inputs[0]) else None
        if path is None:
            return self._native(*inputs, **named)
        try:
            result = self._run(path, inputs[0].contiguous())
        except NoFastForm as error:
            return self._without(error.layer)(*inputs)
        for layer in path.tail:
            result = layer(result)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> _Execution:
        return _Execution(memo[id(self._network)], self._dtype, frozenset())

    @functools.cached_property
    def _inside(self) -> list[Any]:
        return list(self._network.sublayers(include_self=True))  # not before the first call: a copy is in the making

    def _native(self, *inputs: Any, **named: Any) -> Any:
        return type(self._network).forward(self._network, *inputs, **named)

    def _without(self, layer: Any) -> Callable[..., Any]:
        """The forward pass once `layer` runs natively, and what is around it on the engine."""
        if layer is None:
            return self._native
        del self._network.forward
        _accelerate(self._network, self._dtype, self._unknown | {id(layer)})
        return self._network.forward

    def _path(self) -> Trace | None:
        """What the network does in its present modes, None if that is not what programs are made for."""
        if any(layers.has_hooks(layer) for layer in self._inside[1:]):
            return None
        modes = tuple(layer.training for layer in self._inside)
        if modes not in self._traces:
            del self._network.forward
            try:
                self._traces[modes] = trace(self._network, self._unknown)
            finally:
                self._network.forward = self
        return self._traces[modes]

    def _run(self, path: Trace, x: Any) -> Any:
        onednn.set_threads(threads())
        parameters = [layers.parameter(*slot) for slot in path.slots]
        statistics = [layers.parameter(*slot) for slot in path.statistics]
        tensors = Tensors([each.data_ptr() for each in parameters], [each.data_ptr() for each in statistics])
        self._check(tensors, [*parameters, *statistics])
        learning = paddle.is_grad_enabled()
        needed = tuple(learning and not parameter.stop_gradient for parameter in parameters)
        input_gradient = learning and not x.stop_gradient
        batch_statistics = tuple(layers.uses_batch_statistics(layer) for layer, name in path.statistics)
        key = (id(path), tuple(x.shape), needed, input_gradient, batch_statistics)
        shape = _channels_first(x.shape) if path.channels_last else x.shape
        if not any((*needed, input_gradient, *batch_statistics)):
            lease = self._programs.lease(key, lambda: InferenceProgram(path, shape, self._dtype))
            return lease.forward(x, tensors)
        lease = self._programs.lease(key, lambda: TrainingProgram(path, shape, self._dtype, needed, input_gradient))
        return _Pass.apply(lease, tensors, x, *parameters) if learning else lease.forward(x, tensors)

    def _check(self, tensors: Tensors, held: list[Any]) -> None:
        """Raise NoFastForm unless all tensors are plain memory; forget all programs if shapes have changed."""
        if self._checked and self._checked[0] == tensors:
            return
        if not all(map(_is_plain, held)):
            raise NoFastForm(None)
        shapes = [tuple(each.shape) for each in held]
        if self._checked and self._checked[1] != shapes:
            self._programs.clear()
        self._checked = (tensors, shapes)


class _Programs:
    """Programs that nobody uses now, by what they are for; those not asked for longest go when all hold too much."""

    def __init__(self) -> None:
        self._idle: OrderedDict[Any, list[Any] | NoFastForm] = OrderedDict()
        self._lock = threading.RLock()  # re-entrant: a lease may end by garbage collection at any point

    def lease(self, key: Any, build: Callable[[], Any]) -> _Lease:
        """A program that nobody else has. Raises NoFastForm if there can be none."""
        with self._lock:
            idle = self._idle.setdefault(key, [])
            self._idle.move_to_end(key)
            if isinstance(idle, NoFastForm):
                raise idle
            ready = idle.pop() if idle else None
        try:
            return _Lease(self, key, ready or build())
        except NoFastForm as error:
            self._idle[key] = error
            raise

    def give_back(self, key: Any, program: Any) -> None:
        with self._lock:
            idle = self._idle.get(key)
            if isinstance(idle, list) and len(idle) < _MOST_IDLE:
                idle.append(program)
            self._evict()

    def clear(self) -> None:
        self._idle.clear()

    def _evict(self) -> None:
        held = [[program.bytes for program in idle] if isinstance(idle, list) else [] for idle in self._idle.values()]
        total = sum(map(sum, held))
        for key, sizes in zip(list(self._idle)[:-1], held, strict=False):
            if total <= _MOST_BYTES:
                return
            del self._idle[key]
            total -= sum(sizes)


class _Lease:
    """A program that is in use, until its backward pass is done or nobody can ask for one any more."""

    def __init__(self, programs: _Programs, key: Any, program: Any):
        self._programs, self._key = programs, key
        self.program = program

    def forward(self, x: Any, tensors: Tensors) -> Any:
        result = paddle.empty(self.program.result, "float32")
        self.program.forward(x.data_ptr(), result.data_ptr(), tensors)
        return result

    def end(self) -> None:
        program, self.program = self.program, None
        if program is not None:
            self._programs.give_back(self._key, program)

    def __del__(self) -> None:
        self.end()


class _Pass(PyLayer):
    """A forward pass, as one step of Paddle's automatic differentiation."""

    @staticmethod
    def forward(ctx: Any, lease: _Lease, tensors: Tensors, x: Any, *parameters: Any) -> Any:
        ctx.lease, ctx.tensors = lease, tensors
        ctx.shapes = [None if tensor.stop_gradient else tensor.shape for tensor in (x, *parameters)]
        return lease.forward(x, tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        onednn.set_threads(threads())
        found = [None if shape is None else paddle.empty(shape, "float32") for shape in ctx.shapes]
        source, *addresses = [0 if each is None else each.data_ptr() for each in found]
        needed = [address for address in addresses if address]
        gradient = gradient.contiguous()  # must live as long as its address is used
        # The program is there: Paddle itself can't go through a PyLayer twice.
        ctx.lease.program.backward(gradient.data_ptr(), needed, source, ctx.tensors)
        ctx.lease.end()
        return tuple(found)


def _is_map(x: Any) -> bool:
    return isinstance(x, paddle.Tensor) and x.ndim == 4 and _is_float32_on_cpu(x) and min(x.shape) > 0


def _is_plain(tensor: Any) -> bool:
    return _is_float32_on_cpu(tensor) and tensor.is_contiguous()


def _is_float32_on_cpu(tensor: Any) -> bool:
    return bool(tensor.dtype == paddle.float32 and tensor.place.is_cpu_place())


def _channels_first(shape: Sequence[int]) -> tuple[int, ...]:
    n, h, w, c = shape
    return n, c, h, w
