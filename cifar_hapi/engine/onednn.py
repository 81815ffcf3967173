"""oneDNN's C interface, called in the library that Paddle's wheel carries: descriptions, memory, primitives, calls.

The interface is stable through oneDNN 3.x (3.2 in Paddle 2.6.2, 3.6 in 3.3). Every handle belongs to a Python object
and is freed with it; every status is checked.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

Dtype = Literal["float32", "bfloat16"]
# How a feature map lies in memory: `nchw` plain, `nhwc` channels-last, `blocked` in blocks of 16 channels.
Layout = Literal["nchw", "nhwc", "blocked"]
_DTYPES = {"bfloat16": 2, "float32": 3, "uint8": 6}
_TAGS = {"any": 1, "a": 2, "ab": 3, "oihw": 5, "nchw": 5, "goihw": 6, "nhwc": 22, "blocked": 78}
_STATUSES = {1: "out of memory", 2: "invalid arguments", 3: "unimplemented", 5: "runtime error"}
_UNIMPLEMENTED = 3
_AVX512_BF16, _AMX = 0x80, 0xE00  # bits of the instructions that oneDNN may use
ADD, MULTIPLY = 0x1FFF0, 0x1FFF1  # of two operands
_WEIGHTS_MD, _DIFF_WEIGHTS_MD, _WORKSPACE_MD, _SCRATCHPAD_MD = 131, 132, 135, 136

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
    "scratchpad": 80,
    "diff_src": 129,
    "diff_dst": 145,
    "diff_weights": 161,
    "diff_bias": 169,
    "diff_scale": 255,
    "diff_shift": 256,
    **{f"post{number}": (32768 * (number + 1)) | 2 for number in range(4)},  # the operand of a binary post-op
}


class OneDNNError(RuntimeError):
    """A call of oneDNN's that failed: which, for what shapes, and why."""


class Unimplemented(OneDNNError):
    """oneDNN has no implementation for these shapes, types and layouts."""


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
        self.shape, self.dtype, self.tag = tuple(shape), dtype, tag
        what = f"{dtype} {list(shape)} {tag}"
        arguments = (len(shape), dims(shape), _DTYPES[dtype], _TAGS[tag])
        handle = _Handle("dnnl_memory_desc_create_with_tag", "dnnl_memory_desc_destroy", *arguments, what=what)
        self._set(handle, handle.pointer)

    @classmethod
    def strided(cls, shape: Sequence[int], strides: Sequence[int], dtype: str = "float32") -> Desc:
        """strides: for each axis, how many numbers lie from one of its elements to the next."""
        desc = cls.__new__(cls)
        desc.shape, desc.dtype, desc.tag = tuple(shape), dtype, f"strides {tuple(strides)}"
        create = "dnnl_memory_desc_create_with_strides"
        arguments = (len(shape), dims(shape), _DTYPES[dtype], dims(strides))
        handle = _Handle(create, "dnnl_memory_desc_destroy", *arguments, what=f"{shape} {strides}")
        desc._set(handle, handle.pointer)
        return desc

    @classmethod
    def chosen(cls, owner: PrimitiveDesc, query: int) -> Desc:
        """The layout that a primitive has chosen for one of its arguments; shape and type are the primitive's."""
        desc = cls.__new__(cls)
        desc.shape, desc.dtype, desc.tag = (), "chosen", "chosen"
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
    """A primitive that oneDNN has found an implementation for.

    create: the C function; arguments: its own, without the attributes, which come last. Raises Unimplemented.
    """

    def __init__(self, create: str, what: str, *arguments: Any, post: PostOps | None = None):
        self._attributes = _attributes(post)
        self._handle = _Handle(create, "dnnl_primitive_desc_destroy", *arguments, self._attributes.pointer, what=what)
        self.pointer = self._handle.pointer
        self._primitive: _Handle | None = None

    @property
    def primitive(self) -> c_void_p:
        if self._primitive is None:
            self._primitive = _Handle("dnnl_primitive_create", "dnnl_primitive_destroy", self.pointer)
        return self._primitive.pointer

    @property
    def implementation(self) -> str:
        """The name of the kernel, such as `brg_conv_fwd:avx512_core_bf16`."""
        name = c_char_p()
        check(library().dnnl_primitive_desc_query(self.pointer, 8, 0, byref(name)), "dnnl_primitive_desc_query")
        return (name.value or b"").decode()

    @property
    def fast(self) -> bool:
        """Whether this is more than oneDNN's reference code, which is a hundred to a thousand times slower."""
        return not self.implementation.startswith("ref")

    @property
    def weights(self) -> Desc:
        return Desc.chosen(self, _WEIGHTS_MD)

    @property
    def diff_weights(self) -> Desc:
        return Desc.chosen(self, _DIFF_WEIGHTS_MD)

    @property
    def workspace(self) -> Desc:
        return Desc.chosen(self, _WORKSPACE_MD)

    @property
    def scratchpad(self) -> Desc:
        """Memory that a call needs while it runs. It is the caller's, so that calls in two threads share none."""
        return Desc.chosen(self, _SCRATCHPAD_MD)


def _attributes(post: PostOps | None) -> _Handle:
    attributes = _Handle("dnnl_primitive_attr_create", "dnnl_primitive_attr_destroy")
    check(library().dnnl_primitive_attr_set_scratchpad_mode(attributes.pointer, 1), "attr_set_scratchpad_mode")
    if post:
        check(library().dnnl_primitive_attr_set_post_ops(attributes.pointer, post.pointer), "attr_set_post_ops")
    return attributes


class Call:
    """A primitive with its arguments: `run()` computes."""

    def __init__(self, desc: PrimitiveDesc, memories: Mapping[str, Memory]):
        self._desc, self._memories = desc, dict(memories)  # they must outlive the call
        array = (_Argument * len(memories))()
        for place, (name, memory) in enumerate(memories.items()):
            array[place].name, array[place].memory = ARGUMENTS[name], memory.pointer
        self._arguments = desc.primitive, stream(), len(memories), array
        self._execute = library().dnnl_primitive_execute

    @property
    def implementation(self) -> str:
        return self._desc.implementation

    def run(self) -> None:
        status = self._execute(*self._arguments)
        if status:
            check(status, f"dnnl_primitive_execute {self.implementation}")


class _Argument(ctypes.Structure):
    _fields_ = [("name", c_int), ("memory", c_void_p)]


class PostOps:
    """What a primitive does to its result before it is written, in this order; a chain of `multiply`, `add`, `apply`.

    The operand of the n-th of them, from 0, is the argument `postn` of the call.
    """

    def __init__(self) -> None:
        self._operations = _Handle("dnnl_post_ops_create", "dnnl_post_ops_destroy")
        self.pointer = self._operations.pointer

    def multiply(self, by: Desc) -> PostOps:
        """By something of the result's shape, or [1, C, 1, 1]."""
        return self._binary(MULTIPLY, by)

    def add(self, summand: Desc) -> PostOps:
        return self._binary(ADD, summand)

    def add_to_result(self) -> PostOps:
        """What was in the result's memory before."""
        status = library().dnnl_post_ops_append_sum(self.pointer, c_float(1), 0, 0)
        check(status, "post_ops_append_sum")
        return self

    def apply(self, algorithm: int, alpha: float = 0) -> PostOps:
        """A function of a single number, by oneDNN's number for it."""
        status = library().dnnl_post_ops_append_eltwise(self.pointer, algorithm, c_float(alpha), c_float(0))
        check(status, "post_ops_append_eltwise")
        return self

    def _binary(self, algorithm: int, operand: Desc) -> PostOps:
        status = library().dnnl_post_ops_append_binary(self.pointer, algorithm, operand.pointer)
        check(status, f"post_ops_append_binary {operand.shape}")
        return self


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
        raise (Unimplemented if status == _UNIMPLEMENTED else OneDNNError)(
            f"{what}: {_STATUSES.get(status, f'status {status}')}"
        )


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


def version() -> str:
    """Of the library, such as 3.6.2."""
    found = library().dnnl_version().contents
    return f"{found.major}.{found.minor}.{found.patch}"


def native_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 (AVX512_BF16, AMX): else oneDNN computes it by detours."""
    return bool(library().dnnl_get_effective_cpu_isa() & _AVX512_BF16)


@functools.cache
def multiplies_tiles() -> bool:
    """Whether this CPU multiplies tiles of bfloat16 (AMX), and oneDNN may let it."""
    return bool(library().dnnl_get_effective_cpu_isa() & _AMX == _AMX)


def set_threads(count: int) -> None:
    """How many threads oneDNN takes for calls from this Python thread.

    Paddle's wheel brings Intel's OpenMP, which also answers to the GNU names that its oneDNN was linked to.
    """
    for runtime in _openmp_runtimes():
        runtime.omp_set_num_threads(count)


@functools.cache
def _openmp_runtimes() -> tuple[Any, ...]:
    path = Path(str(library_path())).with_name("libiomp5.so")
    return (library(), ctypes.CDLL(str(path))) if path.is_file() else (library(),)


@functools.cache
def openmp() -> Any:
    """The OpenMP that runs oneDNN's threads, so that code of ours runs on the same ones."""
    runtime = _openmp_runtimes()[-1]
    runtime.GOMP_parallel.argtypes, runtime.GOMP_parallel.restype = (c_void_p, c_void_p, c_uint, c_uint), None
    return runtime


_Dims = c_int64 * 12


def dims(values: Sequence[int]) -> Any:
    return _Dims(*values)


_OUT = POINTER(c_void_p)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "dnnl_engine_create": (_OUT, c_int, c_size_t),
    "dnnl_stream_create": (_OUT, c_void_p, c_uint),
    "dnnl_memory_desc_create_with_tag": (_OUT, c_int, _Dims, c_int, c_int),
    "dnnl_memory_desc_create_with_strides": (_OUT, c_int, _Dims, c_int, _Dims),
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
    "dnnl_primitive_attr_set_scratchpad_mode": (c_void_p, c_int),
    "dnnl_post_ops_create": (_OUT,),
    "dnnl_post_ops_destroy": (c_void_p,),
    "dnnl_post_ops_append_binary": (c_void_p, c_int, c_void_p),
    "dnnl_post_ops_append_eltwise": (c_void_p, c_int, c_float, c_float),
    "dnnl_post_ops_append_sum": (c_void_p, c_float, c_int, c_int),
    "dnnl_matmul_primitive_desc_create": (_OUT, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
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
