"""How a network runs on the engine: forward passes are replaced; its parameters and its state stay where they are."""

from __future__ import annotations

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
_OTHERWISE = "cifar_hapi.engine.restore(network) makes it run natively"
_MOST_TRACES = 64  # of states of a network, which a step counter among its attributes would make ever more of
_looking = threading.RLock()  # held while a network is looked at, which changes it for that time


def accelerate(network: paddle.nn.Layer, dtype: onednn.Dtype) -> bool:
    """Make `network` run on oneDNN from now on: as a whole, or those of its sub-layers that can; whether any can.

    How its `forward` passes feature maps from layer to layer is looked at once for each state of its layers, that is
    modes, hooks, sub-layers, and attributes that are numbers, truth values or text: it must depend on nothing else.
    What the engine cannot run, and inputs and states of the network that it isn't made for, run natively.
    """
    restore(network)
    with _looking:
        return _accelerate(network, dtype, frozenset())


def restore(network: paddle.nn.Layer) -> None:
    """Undo `accelerate`: all of `network` runs natively again."""
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

    def __getattr__(self, name: str) -> Any:
        # What paddle.jit looks for here to read the source of a function.
        raise AttributeError(
            f"a forward pass on the oneDNN engine is no function and has no {name}; "
            "for paddle.jit, call cifar_hapi.engine.restore(network) first"
        )

    def _native(self, *inputs: Any, **named: Any) -> Any:
        return type(self._network).forward(self._network, *inputs, **named)

    def _without(self, layer: Any) -> Callable[..., Any]:
        """The forward pass once `layer` runs natively, and what is around it on the engine."""
        if layer is None:
            return self._native
        with _looking:
            if self._network.__dict__.get("forward") is self:
                del self._network.forward
                _accelerate(self._network, self._dtype, self._unknown | {id(layer)})
        return self._network.forward

    def _path(self) -> Trace | None:
        """What the network does in its present state, None if that is not what programs are made for."""
        with _looking:
            state = tuple(map(layers.state, self._network.sublayers(include_self=True)))
            if state not in self._traces:
                if len(self._traces) == _MOST_TRACES:
                    self._traces.clear()
                    self._programs.clear()
                self._traces[state] = trace(self._network, self._unknown)
            return self._traces[state]

    def _run(self, path: Trace, x: Any) -> Any:
        onednn.set_threads(threads())
        parameters = [layers.parameter(*slot) for slot in path.slots]
        statistics = [layers.parameter(*slot) for slot in path.statistics]
        tensors = Tensors([each.data_ptr() for each in parameters], [each.data_ptr() for each in statistics])
        self._check(tensors, [*parameters, *statistics])
        learning = paddle.is_grad_enabled()
        needed = tuple(learning and not parameter.stop_gradient for parameter in parameters)
        input_gradient = learning and not x.stop_gradient
        key = (id(path), tuple(x.shape), needed, input_gradient)
        shape = _channels_first(x.shape) if path.channels_last else x.shape
        if not any((*needed, input_gradient, path.batch_statistics)):
            lease = self._programs.lease(key, lambda: InferenceProgram(path, shape, self._dtype))
            return lease.forward(x, tensors)
        lease = self._programs.lease(key, lambda: TrainingProgram(path, shape, self._dtype, needed, input_gradient))
        if not learning:
            return lease.forward(x, tensors)
        lease.held = [each.detach() for each in (*parameters, *statistics)]
        result = _Pass.apply(lease, tensors, x, *parameters)
        if not result.stop_gradient:
            result.register_hook(lease.check)  # runs before Paddle goes on with a backward pass
        return result

    def _check(self, tensors: Tensors, held: list[Any]) -> None:
        """Raise NoFastForm unless all tensors are plain memory; forget all programs if shapes have changed."""
        types = [each.dtype for each in held]  # for an address can be taken over by another tensor
        if self._checked and self._checked[:2] == (tensors, types):
            return
        if not all(map(_is_plain, held)):
            raise NoFastForm(None)
        shapes = [tuple(each.shape) for each in held]
        if self._checked and self._checked[2] != shapes:
            self._programs.clear()
        self._checked = (tensors, types, shapes)


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
            with self._lock:
                self._idle[key] = error
            raise

    def give_back(self, key: Any, program: Any) -> None:
        with self._lock:
            idle = self._idle.get(key)
            if isinstance(idle, list) and len(idle) < _MOST_IDLE:
                idle.append(program)
            self._evict()

    def clear(self) -> None:
        with self._lock:
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
    """A program that is in use, until its backward pass is done or nobody can ask for one any more.

    held: tensors whose memory must be there as long.
    """

    def __init__(self, programs: _Programs, key: Any, program: Any):
        self._programs, self._key = programs, key
        self.program = program
        self.held: list[Any] = []

    def forward(self, x: Any, tensors: Tensors) -> Any:
        result = paddle.empty(self.program.result, "float32")
        self.program.forward(x.data_ptr(), result.data_ptr(), tensors)
        return result

    def check(self, gradient: Any) -> None:
        """Raise before a second backward pass, in which Paddle crashes whatever the `PyLayer` (2.6.2, 3.3.1)."""
        if self.program is None:
            raise RuntimeError(f"a forward pass on the oneDNN engine has one backward pass; {_OTHERWISE}")

    def end(self) -> None:
        program, self.program = self.program, None
        self.held = []
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
        if paddle.is_grad_enabled():
            raise RuntimeError(f"the oneDNN engine has no gradients of gradients (create_graph); {_OTHERWISE}")
        if [each.data_ptr() for each in ctx.lease.held] != [*ctx.tensors.parameters, *ctx.tensors.statistics]:
            raise RuntimeError("parameters were given other memory, or another type, since the forward pass")
        onednn.set_threads(threads())
        found = [None if shape is None else paddle.empty(shape, "float32") for shape in ctx.shapes]
        source, *addresses = [0 if each is None else each.data_ptr() for each in found]
        needed = [address for address in addresses if address]
        gradient = gradient.contiguous()  # must live as long as its address is used
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
