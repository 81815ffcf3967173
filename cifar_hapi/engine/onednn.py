"""The few functions of oneDNN's C interface that the engine needs, called in the library that Paddle's wheel carries.

The interface is stable through oneDNN 3.x (3.2 in Paddle 2.6.2, 3.6 in 3.3). Every handle belongs to a Python object
and is freed with it; every status is checked.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

Dtype = Literal["float32", "bfloat16"]
_DTYPES = {"bfloat16": 2, "float32": 3, "uint8": 6}
_TAGS = {"any": 1, "a": 2, "ab": 3, "oihw": 5, "nchw": 5, "nhwc": 22}
_STATUSES = {1: "out of memory", 2: "invalid arguments", 3: "unimplemented", 5: "runtime error"}
_FORWARD_TRAINING, _FORWARD_INFERENCE, _BACKWARD = 64, 96, 128
_DIRECT, _RELU, _RELU_BY_RESULT, _MAX, _AVERAGE, _ADD, _MULTIPLY = 1, 0x20, 0x100, 0x1FF, 0x3FF, 0x1FFF0, 0x1FFF1
_WEIGHTS_MD, _DIFF_WEIGHTS_MD, _WORKSPACE_MD = 131, 132, 135
_GLOBAL_STATS, _SCALE, _SHIFT, _FUSE_RELU = 1, 2, 4, 8

# What the arguments of primitives are called (dnnl_types.h).
ARGUMENTS = {
    "src": 1,
    "src1": 2,
    "dst": 17,
    "weights": 33,
    "bias": 41,
    "mean": 49,
    "variance": 50,
    "scale": 51,
    "shift": 52,
    "workspace": 64,
    "diff_src": 129,
    "diff_dst": 145,
    "diff_weights": 161,
    "diff_scale": 255,
    "diff_shift": 256,
    **{f"post{number}": (32768 * (number + 1)) | 2 for number in range(4)},  # the operand of a binary post-op
}


class OneDNNError(RuntimeError):
    """A call of oneDNN's that failed: which, for what shapes, and why."""


def library_path() -> Path | None:
    """Where the wheel's oneDNN 3 is, None where this Paddle has none. Does not load Paddle."""
    spec = find_spec("paddle")
    folder = Path(spec.origin).parent / "libs" if spec and spec.origin else None
    path = folder / "libdnnl.so.3" if folder else None
    return path if path and path.is_file() else None


class _Handle:
    """Owns a pointer that a function `create` fills in, and frees it with `destroy`."""

    def __init__(self, create: str, destroy: str, *arguments: Any, what: str = ""):
        self._destroy = getattr(library(), destroy)
        self.pointer = c_void_p()
        check(getattr(library(), create)(byref(self.pointer), *arguments), f"{create} {what}".strip())

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self._destroy(self.pointer)


class Desc:
    """Shape, element type and layout of memory. `any` leaves the layout to the primitive that is made with it."""

    def __init__(self, shape: Sequence[int], dtype: str = "float32", tag: str = "nhwc"):
        self.shape, self.dtype = tuple(shape), dtype
        what = f"{dtype} {list(shape)} {tag}"
        arguments = (len(shape), _dims(shape), _DTYPES[dtype], _TAGS[tag])
        handle = _Handle("dnnl_memory_desc_create_with_tag", "dnnl_memory_desc_destroy", *arguments, what=what)
        self._set(handle, handle.pointer)

    @classmethod
    def chosen(cls, owner: PrimitiveDesc, query: int) -> Desc:
        """The layout that a primitive has chosen for one of its arguments; `shape` and `dtype` are the primitive's."""
        desc = cls.__new__(cls)
        desc.shape, desc.dtype = (), "chosen"
        desc._set(owner, c_void_p(library().dnnl_primitive_desc_query_md(owner.pointer, query, 0)))
        return desc

    def _set(self, owner: Any, pointer: c_void_p) -> None:
        self._owner, self.pointer = owner, pointer  # the owner frees it
        self.size = int(library().dnnl_memory_desc_get_size(pointer))


class Memory:
    """A description and where the data is: in `array`, which lives as long, or wherever it is pointed to before use."""

    def __init__(self, desc: Desc, array: np.ndarray | None = None):
        self.desc, self._array = desc, array
        address = c_void_p(array.ctypes.data if array is not None else 0)
        self._handle = _Handle("dnnl_memory_create", "dnnl_memory_destroy", desc.pointer, engine(), address)
        self.pointer = self._handle.pointer

    def point_to(self, address: int) -> None:
        check(library().dnnl_memory_set_data_handle(self.pointer, c_void_p(address)), "dnnl_memory_set_data_handle")


class PrimitiveDesc:
    """A primitive that oneDNN has found an implementation for; `create` and `arguments` are those of the C function."""

    def __init__(self, create: str, what: str, *arguments: Any):
        self._handle = _Handle(create, "dnnl_primitive_desc_destroy", *arguments, what=what)
        self.pointer = self._handle.pointer
        self._primitive: _Handle | None = None

    @property
    def primitive(self) -> c_void_p:
        if self._primitive is None:
            self._primitive = _Handle("dnnl_primitive_create", "dnnl_primitive_destroy", self.pointer)
        return self._primitive.pointer

    @property
    def implementation(self) -> str:
        """The name of the kernel, such as `brgconv:avx512_core_bf16`."""
        name = c_char_p()
        check(library().dnnl_primitive_desc_query(self.pointer, 8, 0, byref(name)), "dnnl_primitive_desc_query")
        return (name.value or b"").decode()

    @property
    def weights(self) -> Desc:
        return Desc.chosen(self, _WEIGHTS_MD)

    @property
    def diff_weights(self) -> Desc:
        return Desc.chosen(self, _DIFF_WEIGHTS_MD)

    @property
    def workspace(self) -> Desc:
        return Desc.chosen(self, _WORKSPACE_MD)


class Call:
    """A primitive with its arguments: `run()` computes."""

    def __init__(self, desc: PrimitiveDesc, memories: Mapping[str, Memory]):
        self._desc, self._memories = desc, dict(memories)  # they must outlive the call
        array = (_Argument * len(memories))()
        for place, (name, memory) in enumerate(memories.items()):
            array[place].name, array[place].memory = ARGUMENTS[name], memory.pointer
        self._arguments = desc.primitive, stream(), len(memories), array
        self._execute = library().dnnl_primitive_execute

    def run(self) -> None:
        status = self._execute(*self._arguments)
        if status:
            check(status, f"dnnl_primitive_execute {self._desc.implementation}")


class _Argument(ctypes.Structure):
    _fields_ = [("name", c_int), ("memory", c_void_p)]


def convolution(
    src: Desc, weights: Desc, dst: Desc, stride: int, padding: int, training: bool = True, post: PostOps | None = None
) -> PrimitiveDesc:
    kind = _FORWARD_TRAINING if training else _FORWARD_INFERENCE
    attributes = post.attributes() if post else None
    return PrimitiveDesc(
        "dnnl_convolution_forward_primitive_desc_create",
        f"{src.dtype} {src.shape} * {weights.shape} / {stride}",
        *(engine(), kind, _DIRECT, src.pointer, weights.pointer, None, dst.pointer),
        *_geometry(stride, padding),
        _pointer(attributes),
    )


def convolution_backward_data(
    diff_src: Desc, weights: Desc, diff_dst: Desc, stride: int, padding: int, hint: PrimitiveDesc
) -> PrimitiveDesc:
    return PrimitiveDesc(
        "dnnl_convolution_backward_data_primitive_desc_create",
        f"{diff_src.dtype} {diff_src.shape} * {weights.shape} / {stride}",
        *(engine(), _DIRECT, diff_src.pointer, weights.pointer, diff_dst.pointer),
        *_geometry(stride, padding),
        *(hint.pointer, None),
    )


def convolution_backward_weights(
    src: Desc, diff_weights: Desc, diff_dst: Desc, stride: int, padding: int, hint: PrimitiveDesc
) -> PrimitiveDesc:
    return PrimitiveDesc(
        "dnnl_convolution_backward_weights_primitive_desc_create",
        f"{src.dtype} {src.shape} * {diff_weights.shape} / {stride}",
        *(engine(), _DIRECT, src.pointer, diff_weights.pointer, None, diff_dst.pointer),
        *_geometry(stride, padding),
        *(hint.pointer, None),
    )


def batch_norm(data: Desc, epsilon: float, relu: bool, batch_statistics: bool) -> PrimitiveDesc:
    """With batch statistics it writes `mean` and `variance` (biased), else it reads them."""
    flags = _SCALE | _SHIFT | (_FUSE_RELU if relu else 0) | (0 if batch_statistics else _GLOBAL_STATS)
    return PrimitiveDesc(
        "dnnl_batch_normalization_forward_primitive_desc_create",
        f"{data.dtype} {data.shape}",
        *(engine(), _FORWARD_TRAINING, data.pointer, data.pointer, c_float(epsilon), c_uint(flags), None),
    )


def batch_norm_backward(
    data: Desc, epsilon: float, relu: bool, batch_statistics: bool, hint: PrimitiveDesc
) -> PrimitiveDesc:
    flags = _SCALE | _SHIFT | (_FUSE_RELU if relu else 0) | (0 if batch_statistics else _GLOBAL_STATS)
    return PrimitiveDesc(
        "dnnl_batch_normalization_backward_primitive_desc_create",
        f"{data.dtype} {data.shape}",
        *(engine(), _BACKWARD, data.pointer, data.pointer, data.pointer, c_float(epsilon), c_uint(flags)),
        *(hint.pointer, None),
    )


class PostOps:
    """What a primitive does to its result before it is written, in this order; a chain of `multiply`, `add`, `relu`."""

    def __init__(self) -> None:
        self._operations = _Handle("dnnl_post_ops_create", "dnnl_post_ops_destroy")
        self._memories: dict[str, Memory] = {}
        self._count = 0

    def multiply(self, by: Memory) -> PostOps:
        """By `by`, which has the shape of the result, or [1, C, 1, 1]."""
        return self._binary(_MULTIPLY, by)

    def add(self, summand: Memory) -> PostOps:
        return self._binary(_ADD, summand)

    def relu(self) -> PostOps:
        zero = c_float(0)
        check(library().dnnl_post_ops_append_eltwise(self._operations.pointer, _RELU, zero, zero), "relu")
        self._count += 1
        return self

    @property
    def memories(self) -> dict[str, Memory]:
        """To be given to the call, beside the primitive's own arguments."""
        return self._memories

    def attributes(self) -> _Handle:
        attributes = _Handle("dnnl_primitive_attr_create", "dnnl_primitive_attr_destroy")
        check(library().dnnl_primitive_attr_set_post_ops(attributes.pointer, self._operations.pointer), "post_ops")
        return attributes

    def _binary(self, algorithm: int, memory: Memory) -> PostOps:
        status = library().dnnl_post_ops_append_binary(self._operations.pointer, algorithm, memory.desc.pointer)
        check(status, f"post_ops_append_binary {memory.desc.shape}")
        self._memories[f"post{self._count}"] = memory
        self._count += 1
        return self


def add(data: Desc, relu: bool = False) -> PrimitiveDesc:
    """dst = src + src1, then ReLU if asked; dst may be src."""
    attributes = PostOps().relu().attributes() if relu else None
    return PrimitiveDesc(
        "dnnl_binary_primitive_desc_create",
        f"{data.dtype} {data.shape}",
        *(engine(), _ADD, data.pointer, data.pointer, data.pointer, _pointer(attributes)),
    )


def relu_backward(data: Desc) -> PrimitiveDesc:
    """diff_src = diff_dst where dst > 0, else 0; diff_src may be diff_dst."""
    zero = c_float(0)
    forward = PrimitiveDesc(
        "dnnl_eltwise_forward_primitive_desc_create",
        f"{data.dtype} {data.shape}",
        *(engine(), _FORWARD_TRAINING, _RELU_BY_RESULT, data.pointer, data.pointer, zero, zero, None),
    )
    return PrimitiveDesc(
        "dnnl_eltwise_backward_primitive_desc_create",
        f"{data.dtype} {data.shape}",
        *(engine(), _RELU_BY_RESULT, data.pointer, data.pointer, data.pointer, zero, zero, forward.pointer, None),
    )


@dataclass(frozen=True)
class Window:
    """What a pool looks at; all in pixels, height before width."""

    kind: Literal["max", "average"]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: int = 0

    def arguments(self) -> tuple[Any, ...]:
        padding = _dims((self.padding, self.padding))
        return _dims(self.stride), _dims(self.kernel), _dims((0, 0)), padding, padding

    def result(self, sides: Sequence[int]) -> tuple[int, ...]:
        """Height and width of what comes out."""
        return tuple(
            (side + 2 * self.padding - kernel) // stride + 1
            for side, kernel, stride in zip(sides, self.kernel, self.stride, strict=True)
        )

    @property
    def algorithm(self) -> int:
        return {"max": _MAX, "average": _AVERAGE}[self.kind]


def pool(window: Window, src: Desc, dst: Desc, training: bool = True) -> PrimitiveDesc:
    return PrimitiveDesc(
        "dnnl_pooling_forward_primitive_desc_create",
        f"{window.kind} {src.dtype} {src.shape}",
        *(
            engine(),
            _FORWARD_TRAINING if training else _FORWARD_INFERENCE,
            window.algorithm,
            src.pointer,
            dst.pointer,
            *window.arguments(),
            None,
        ),
    )


def pool_backward(window: Window, diff_src: Desc, diff_dst: Desc, hint: PrimitiveDesc) -> PrimitiveDesc:
    return PrimitiveDesc(
        "dnnl_pooling_backward_primitive_desc_create",
        f"{window.kind} {diff_src.dtype} {diff_src.shape}",
        *(engine(), window.algorithm, diff_src.pointer, diff_dst.pointer, *window.arguments(), hint.pointer, None),
    )


def reorder(src: Desc, dst: Desc) -> PrimitiveDesc:
    """Copy `src` to `dst`, whose layout and element type may differ."""
    return PrimitiveDesc("dnnl_reorder_primitive_desc_create", "", src.pointer, engine(), dst.pointer, engine(), None)


@functools.cache
def library() -> Any:
    """The loaded library, its functions declared. Raises OneDNNError where there is none of version 3."""
    path = library_path()
    if path is None:
        raise OneDNNError("this Paddle carries no libdnnl.so.3")
    import paddle  # noqa: F401  # first, so that it is loaded with the libraries it needs

    loaded = ctypes.CDLL(str(path))
    for name, types in _SIGNATURES.items():
        getattr(loaded, name).argtypes, getattr(loaded, name).restype = types, c_int
    loaded.dnnl_primitive_desc_query_md.argtypes = (c_void_p, c_int, c_int)
    loaded.dnnl_primitive_desc_query_md.restype = c_void_p
    loaded.dnnl_memory_desc_get_size.argtypes, loaded.dnnl_memory_desc_get_size.restype = (c_void_p,), c_size_t
    loaded.dnnl_version.restype = POINTER(_Version)
    major = loaded.dnnl_version().contents.major
    if major != 3:
        raise OneDNNError(f"{path.name} is oneDNN {major}; the engine needs 3")
    return loaded


class _Version(ctypes.Structure):
    _fields_ = [("major", c_int), ("minor", c_int), ("patch", c_int)]


def check(status: int, what: str) -> None:
    if status:
        raise OneDNNError(f"{what}: {_STATUSES.get(status, f'status {status}')}")


@functools.cache
def engine() -> c_void_p:
    """The CPU, in oneDNN's words; lives as long as the process."""
    pointer = c_void_p()
    check(library().dnnl_engine_create(byref(pointer), 1, 0), "dnnl_engine_create")
    return pointer


@functools.cache
def stream() -> c_void_p:
    """In which primitives run one after the other; on a CPU they have ended when the call returns."""
    pointer = c_void_p()
    check(library().dnnl_stream_create(byref(pointer), engine(), 1), "dnnl_stream_create")
    return pointer


def set_threads(count: int) -> None:
    """How many threads oneDNN takes for calls from this Python thread.

    Paddle's wheel brings Intel's OpenMP, which also answers to the GNU names that its oneDNN was linked to.
    """
    path = Path(str(library_path())).with_name("libiomp5.so")
    runtimes = [library(), *([ctypes.CDLL(str(path))] if path.is_file() else [])]
    for runtime in runtimes:
        runtime.omp_set_num_threads(count)


def _geometry(stride: int, padding: int) -> tuple[Any, ...]:
    return _dims((stride, stride)), _dims((0, 0)), _dims((padding, padding)), _dims((padding, padding))


_Dims = c_int64 * 12


def _dims(values: Sequence[int]) -> Any:
    return _Dims(*values)


def _pointer(handle: _Handle | None) -> c_void_p | None:
    return None if handle is None else handle.pointer


_OUT = POINTER(c_void_p)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "dnnl_engine_create": (_OUT, c_int, c_size_t),
    "dnnl_stream_create": (_OUT, c_void_p, c_uint),
    "dnnl_memory_desc_create_with_tag": (_OUT, c_int, _Dims, c_int, c_int),
    "dnnl_memory_desc_destroy": (c_void_p,),
    "dnnl_memory_create": (_OUT, c_void_p, c_void_p, c_void_p),
    "dnnl_memory_destroy": (c_void_p,),
    "dnnl_memory_set_data_handle": (c_void_p, c_void_p),
    "dnnl_primitive_desc_destroy": (c_void_p,),
    "dnnl_primitive_desc_query": (c_void_p, c_int, c_int, c_void_p),
    "dnnl_primitive_create": (_OUT, c_void_p),
    "dnnl_primitive_destroy": (c_void_p,),
    "dnnl_primitive_execute": (c_void_p, c_void_p, c_int, POINTER(_Argument)),
    "dnnl_primitive_attr_create": (_OUT,),
    "dnnl_primitive_attr_destroy": (c_void_p,),
    "dnnl_primitive_attr_set_post_ops": (c_void_p, c_void_p),
    "dnnl_post_ops_create": (_OUT,),
    "dnnl_post_ops_destroy": (c_void_p,),
    "dnnl_post_ops_append_binary": (c_void_p, c_int, c_void_p),
    "dnnl_post_ops_append_eltwise": (c_void_p, c_int, c_float, c_float),
    "dnnl_convolution_forward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_int, c_void_p, c_void_p, c_void_p, c_void_p),
        *(_Dims, _Dims, _Dims, _Dims, c_void_p),
    ),
    "dnnl_convolution_backward_data_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_void_p, c_void_p, c_void_p, _Dims, _Dims, _Dims, _Dims, c_void_p, c_void_p),
    ),
    "dnnl_convolution_backward_weights_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_void_p),
        *(_Dims, _Dims, _Dims, _Dims, c_void_p, c_void_p),
    ),
    "dnnl_batch_normalization_forward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_void_p, c_void_p, c_float, c_uint, c_void_p),
    ),
    "dnnl_batch_normalization_backward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_float, c_uint, c_void_p, c_void_p),
    ),
    "dnnl_binary_primitive_desc_create": (_OUT, c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_void_p),
    "dnnl_eltwise_forward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_int, c_void_p, c_void_p, c_float, c_float, c_void_p),
    ),
    "dnnl_eltwise_backward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_float, c_float, c_void_p, c_void_p),
    ),
    "dnnl_pooling_forward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_int, c_void_p, c_void_p, _Dims, _Dims, _Dims, _Dims, _Dims, c_void_p),
    ),
    "dnnl_pooling_backward_primitive_desc_create": (
        *(_OUT, c_void_p, c_int, c_void_p, c_void_p, _Dims, _Dims, _Dims, _Dims, _Dims, c_void_p, c_void_p),
    ),
    "dnnl_reorder_primitive_desc_create": (_OUT, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
}
