"""The primitives of oneDNN that the engine uses; what they compute is described in oneDNN's developer guide."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_float, c_uint, c_void_p
from dataclasses import dataclass
from typing import Any, Literal

from cifar_hapi.engine.onednn import ADD, MULTIPLY, Desc, PostOps, PrimitiveDesc, Unimplemented, dims, engine

_FORWARD_TRAINING, _FORWARD_INFERENCE, _BACKWARD = 64, 96, 128
_DIRECT, _RELU_BY_RESULT = 1, 0x100
Activation = Literal["relu", "gelu", "gelu, by tanh", "silu"]
_ACTIVATIONS = {"relu": (0x20, 0), "gelu": (0x31, 0), "gelu, by tanh": (0x2B, 0), "silu": (0x2C, 1)}  # and their alpha
_MOST_IN_VECTOR = 16  # float32 numbers, with AVX-512
_POOLS = {"max": 0x1FF, "average with padding": 0x2FF, "average": 0x3FF}
_GLOBAL_STATS, _SCALE, _SHIFT, _FUSE_RELU = 1, 2, 4, 8
Pair = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Geometry:
    """How a kernel moves over a feature map. before, after: the padding above and left, below and right."""

    kernel: Pair
    stride: Pair = (1, 1)
    before: Pair = (0, 0)
    after: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def result(self, sides: Sequence[int]) -> tuple[int, ...]:
        """Height and width of what comes out of a map with these sides; not positive where the kernel doesn't fit."""
        return tuple(
            (side + before + after - dilation * (kernel - 1) - 1) // stride + 1
            for side, kernel, stride, before, after, dilation in zip(
                sides, self.kernel, self.stride, self.before, self.after, self.dilation, strict=True
            )
        )

    def arguments(self) -> tuple[Any, ...]:
        """Strides, dilations, padding, as the C functions take them."""
        gaps = tuple(each - 1 for each in self.dilation)
        return dims(self.stride), dims(gaps), dims(self.before), dims(self.after)

    def window(self) -> tuple[Any, ...]:
        """The same with the kernel, for pools."""
        strides, *rest = self.arguments()
        return strides, dims(self.kernel), *rest


@dataclass(frozen=True)
class Convolution:
    """A convolution's descriptions; `bias` is None where it has none."""

    src: Desc
    weights: Desc
    bias: Desc | None
    dst: Desc
    geometry: Geometry

    def forward(self, training: bool = True, post: PostOps | None = None) -> PrimitiveDesc:
        kind = _FORWARD_TRAINING if training else _FORWARD_INFERENCE
        operands = (self.src.pointer, self.weights.pointer, _pointer(self.bias), self.dst.pointer)
        return self._made("forward", engine(), kind, _DIRECT, *operands, *self.geometry.arguments(), post=post)

    def backward_data(self, hint: PrimitiveDesc) -> PrimitiveDesc:
        operands = (self.src.pointer, self.weights.pointer, self.dst.pointer)
        return self._made("backward_data", engine(), _DIRECT, *operands, *self.geometry.arguments(), hint.pointer)

    def backward_weights(self, hint: PrimitiveDesc) -> PrimitiveDesc:
        operands = (self.src.pointer, self.weights.pointer, _pointer(self.bias), self.dst.pointer)
        made = self._made("backward_weights", engine(), _DIRECT, *operands, *self.geometry.arguments(), hint.pointer)
        if made.implementation.startswith("jit_1x1") and self._overflows_workspace():
            raise Unimplemented(f"{made.implementation}, backward weights: it writes past its workspace")
        return made

    def _overflows_workspace(self) -> bool:
        """Whether oneDNN would gather every other pixel of too few channels, each as a whole vector of 8 or 16.

        What it overwrites is the barrier at which its threads meet: they hang, crash, or sum up too early (oneDNN issue
        6035, open in 3.6.2 and later).
        """
        channels = self.src.shape[1] // self.geometry.groups
        return self.src.tag == "nhwc" and max(self.geometry.stride) > 1 and channels < _MOST_IN_VECTOR

    def _made(self, which: str, *arguments: Any, post: PostOps | None = None) -> PrimitiveDesc:
        what = f"{self.src.dtype} {self.src.shape} * {self.weights.shape} / {self.geometry.stride}"
        return PrimitiveDesc(f"dnnl_convolution_{which}_primitive_desc_create", what, *arguments, post=post)


def batch_norm(data: Desc, epsilon: float, relu: bool, batch_statistics: bool, training: bool = True) -> PrimitiveDesc:
    """With batch statistics it writes `mean` and `variance` (biased), else it reads them."""
    return PrimitiveDesc(
        "dnnl_batch_normalization_forward_primitive_desc_create",
        f"{data.dtype} {data.shape}",
        *(engine(), _FORWARD_TRAINING if training else _FORWARD_INFERENCE, data.pointer, data.pointer),
        *(c_float(epsilon), _norm_flags(relu, batch_statistics)),
    )


def batch_norm_backward(
    data: Desc, epsilon: float, relu: bool, batch_statistics: bool, hint: PrimitiveDesc
) -> PrimitiveDesc:
    return PrimitiveDesc(
        "dnnl_batch_normalization_backward_primitive_desc_create",
        f"{data.dtype} {data.shape}",
        *(engine(), _BACKWARD, data.pointer, data.pointer, data.pointer),
        *(c_float(epsilon), _norm_flags(relu, batch_statistics), hint.pointer),
    )


def add(data: Desc, relu: bool = False) -> PrimitiveDesc:
    """dst = src + src1, then ReLU if asked; dst may be src."""
    return _binary(ADD, data, data, followed_by("relu") if relu else None)


def multiply(data: Desc, by: Desc, post: PostOps) -> PrimitiveDesc:
    """dst = src * src1, of which the latter is [1, C, 1, 1], then `post`; dst may be src."""
    return _binary(MULTIPLY, data, by, post)


def _binary(algorithm: int, data: Desc, other: Desc, post: PostOps | None) -> PrimitiveDesc:
    return PrimitiveDesc(
        "dnnl_binary_primitive_desc_create",
        f"{data.dtype} {data.shape}",
        *(engine(), algorithm, data.pointer, other.pointer, data.pointer),
        post=post,
    )


def relu(data: Desc) -> PrimitiveDesc:
    """dst = max(src, 0); dst may be src."""
    return _elementwise(data, _RELU_BY_RESULT)


def relu_backward(data: Desc) -> PrimitiveDesc:
    """diff_src = diff_dst where dst > 0, else 0; diff_src may be diff_dst."""
    return _elementwise_backward(data, _RELU_BY_RESULT)


def activation(data: Desc, which: Activation) -> PrimitiveDesc:
    """dst = f(src); dst may be src where there is no backward pass."""
    return _elementwise(data, *_ACTIVATIONS[which])


def activation_backward(data: Desc, which: Activation) -> PrimitiveDesc:
    """diff_src = diff_dst * f'(src); diff_src may be diff_dst."""
    return _elementwise_backward(data, *_ACTIVATIONS[which])


def followed_by(which: Activation, post: PostOps | None = None) -> PostOps:
    """`post`, then an activation."""
    return (post or PostOps()).apply(*_ACTIVATIONS[which])


def _elementwise(data: Desc, algorithm: int, alpha: float = 0) -> PrimitiveDesc:
    return PrimitiveDesc(
        "dnnl_eltwise_forward_primitive_desc_create",
        f"{data.dtype} {data.shape}",
        *(engine(), _FORWARD_TRAINING, algorithm, data.pointer, data.pointer, c_float(alpha), c_float(0)),
    )


def _elementwise_backward(data: Desc, algorithm: int, alpha: float = 0) -> PrimitiveDesc:
    hint = _elementwise(data, algorithm, alpha)
    return PrimitiveDesc(
        "dnnl_eltwise_backward_primitive_desc_create",
        f"{data.dtype} {data.shape}",
        *(engine(), algorithm, data.pointer, data.pointer, data.pointer, c_float(alpha), c_float(0), hint.pointer),
    )


@dataclass(frozen=True)
class Window:
    """A pool: what it does, and how it moves."""

    kind: Literal["max", "average", "average with padding"]
    geometry: Geometry


def pool(window: Window, src: Desc, dst: Desc, training: bool = True) -> PrimitiveDesc:
    return PrimitiveDesc(
        "dnnl_pooling_forward_primitive_desc_create",
        f"{window.kind} {src.dtype} {src.shape}",
        *(engine(), _FORWARD_TRAINING if training else _FORWARD_INFERENCE, _POOLS[window.kind]),
        *(src.pointer, dst.pointer, *window.geometry.window()),
    )


def pool_backward(window: Window, diff_src: Desc, diff_dst: Desc, hint: PrimitiveDesc) -> PrimitiveDesc:
    return PrimitiveDesc(
        "dnnl_pooling_backward_primitive_desc_create",
        f"{window.kind} {diff_src.dtype} {diff_src.shape}",
        *(engine(), _POOLS[window.kind], diff_src.pointer, diff_dst.pointer, *window.geometry.window(), hint.pointer),
    )


def matrix_product(src: Desc, weights: Desc, dst: Desc, add: bool = False) -> PrimitiveDesc:
    """dst = src weights, or dst + src weights if asked to add: [B, M, N] of [B, M, K] and [B, K, N]."""
    return PrimitiveDesc(
        "dnnl_matmul_primitive_desc_create",
        f"{src.shape} {weights.shape}",
        *(engine(), src.pointer, weights.pointer, None, dst.pointer),
        post=PostOps().add_to_result() if add else None,
    )


def reorder(src: Desc, dst: Desc) -> PrimitiveDesc:
    """Copy `src` to `dst`, whose layout and element type may differ."""
    what = f"{src.dtype} {src.shape} {src.tag} to {dst.dtype} {dst.tag}"
    return PrimitiveDesc("dnnl_reorder_primitive_desc_create", what, src.pointer, engine(), dst.pointer, engine())


def _norm_flags(relu: bool, batch_statistics: bool) -> c_uint:
    return c_uint(_SCALE | _SHIFT | (_FUSE_RELU if relu else 0) | (0 if batch_statistics else _GLOBAL_STATS))


def _pointer(desc: Desc | None) -> c_void_p | None:
    return None if desc is None else desc.pointer
