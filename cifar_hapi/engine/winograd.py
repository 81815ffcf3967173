"""3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3), arXiv 1509.09308.

The map is cut into squares of 6x6 pixels that overlap by two. A linear map turns each into 36 numbers a channel, and
another does so with the weights; their products, which are 36 matrix products over all squares, are turned into squares
of 4x4 pixels of the result. The backward pass goes the same way back, and is exact but for rounding. The products are
oneDNN's, the linear maps those of winograd.c; without them, where there was no C compiler, convolutions are direct.

The error in float32 is some millionths of the result, a few times that of a direct convolution; a number that is not
finite reaches the whole square. `python -m benchmarks.winograd` measures where it pays.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from ctypes import byref, c_int64, c_void_p
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from cifar_hapi.engine import primitives
from cifar_hapi.engine.memory import Buffer, BufferPool
from cifar_hapi.engine.onednn import Desc, Memory, PrimitiveDesc, Unimplemented, openmp
from cifar_hapi.engine.primitives import Geometry
from cifar_hapi.runtime import threads

_PLANES, _INNER, _LANES = 36, 4, 8  # as in winograd.c
_GEOMETRY = Geometry((3, 3), before=(1, 1), after=(1, 1))
_FEWEST_CHANNELS = 24
_FEWEST_SQUARES = 64  # below which turning the weights costs more than is saved
_LEAST_SAVED = 2  # as the ratio of multiplications; of maps of 5x5 pixels, say, most of the squares lies outside
_LARGEST_SIDE = 128  # of a map whose gradient a thread adds up on its stack, 8 channels at a time
_BYTES_FOR_A_THREAD = 2 << 20  # of planes, so that they are read again before they have left the cache
_APART = 16  # floats between planes, without which all 36 would fall into the same lines of the cache

Add = Callable[[list[Any], PrimitiveDesc, Mapping[str, Memory]], None]


def available() -> bool:
    """Whether the linear maps were compiled when the package was installed."""
    return _maps() is not None


def convolution(x: Desc, y: Desc, geometry: Geometry, pool: BufferPool, add: Add) -> WinogradConvolution | None:
    """A convolution of `x` into `y`, without bias, where that is faster this way than oneDNN's direct one."""
    try:
        return WinogradConvolution(x, y, pool, add) if pays(x, y, geometry) else None
    except Unimplemented:
        return None


def pays(x: Desc, y: Desc, geometry: Geometry) -> bool:
    """Whether a convolution of `x` into `y` is one of those that were measured to be faster this way."""
    if geometry != _GEOMETRY or x.dtype != "float32" or {x.tag, y.tag} != {"nhwc"} or not available():
        return False
    n, _, height, width = x.shape
    squares, channels = _squares(height, width), (x.shape[1], y.shape[1])
    return (
        min(channels) >= _FEWEST_CHANNELS
        and not any(each % _LANES for each in channels)
        and max(height, width) <= _LARGEST_SIDE
        and n * squares >= _FEWEST_SQUARES
        and 9 * height * width >= _LEAST_SAVED * _PLANES * squares
    )


class WinogradConvolution:
    """A convolution of [N, I, H, W] to [N, O, H, W], both channels-last, some images at a time.

    I and O must be multiples of 8. add: puts a primitive and its arguments at the end of a list of steps. Raises
    Unimplemented where oneDNN has no fast matrix products of this kind.
    """

    def __init__(self, x: Desc, y: Desc, pool: BufferPool, add: Add):
        self._pool, self._add = pool, add
        (n, incoming, height, width), outgoing = x.shape, y.shape[1]
        self._channels, squares = (incoming, outgoing), _squares(height, width)
        chunks = list(_chunks(n, squares, incoming, outgoing))
        counts = {stop - start for start, stop in chunks}
        self._strides = [max(counts) * squares * channels + _APART for channels in self._channels]
        made = {count: _Products(count * squares, *self._channels, *self._strides) for count in counts}
        self._chunks = [(start, stop, made[stop - start]) for start, stop in chunks]
        self._turned = pool.keep(_floats(_PLANES * incoming * outgoing))

    def forward(
        self, steps: list[Any], weights: Memory, x: Buffer, y: Buffer, end: Callable[[int, int], None] | None = None
    ) -> None:
        """Write the convolution of `x` to `y`. weights: as Paddle has them, [O, I, 3, 3].

        end: adds what follows on the images from one up to another, whose result is there by then.
        """
        self._turn_weights(steps, weights)
        of_x, of_y = planes = self._take_planes()
        for start, stop, products in self._chunks:
            steps.append(self._map("spread_input", x, of_x, start, stop))
            memories = {
                "src": (products.x, of_x),
                "weights": (products.weights, self._turned),
                "dst": (products.y, of_y),
            }
            self._multiply(steps, products.forward, memories)
            steps.append(self._map("gather_output", y, of_y, start, stop))
            if end:
                end(start, stop)
        self._give_back(planes)

    def backward(self, steps: list[Any], x: Buffer, gy: Buffer, gx: Buffer | None, gradient: Memory | None) -> None:
        """Write the gradients that are wanted, of the input to `gx`, and of the weights to `gradient`."""
        of_x, of_y = planes = self._take_planes()
        found = self._pool.take(self._turned.desc)
        for start, stop, products in self._chunks:
            steps.append(self._map("spread_gradient", gy, of_y, start, stop))
            if gradient:
                steps.append(self._map("spread_input", x, of_x, start, stop))
                product = products.added_gradient if start else products.gradient
                memories = {"src": (products.x_turned, of_x), "weights": (products.y, of_y)}
                self._multiply(steps, product, {**memories, "dst": (products.weights, found)})
            if gx:
                memories = {"src": (products.y, of_y), "weights": (products.weights_turned, self._turned)}
                self._multiply(steps, products.back, {**memories, "dst": (products.x, of_x)})
                steps.append(self._map("gather_gradient", gx, of_x, start, stop))
        if gradient:
            self._turn_gradient_back(steps, found, gradient)
        self._give_back((*planes, found))

    def _turn_weights(self, steps: list[Any], weights: Memory) -> None:
        kernels = self._pool.take(self._kernels())
        self._add(steps, primitives.reorder(weights.desc, kernels.desc), {"src": weights, "dst": kernels.memory})
        steps.append(self._kernel_map("spread_weights", kernels, self._turned))
        self._pool.give(kernels)

    def _turn_gradient_back(self, steps: list[Any], found: Buffer, gradient: Memory) -> None:
        kernels = self._pool.take(self._kernels())
        steps.append(self._kernel_map("gather_weights", kernels, found))
        self._add(steps, primitives.reorder(kernels.desc, gradient.desc), {"src": kernels.memory, "dst": gradient})
        self._pool.give(kernels)

    def _kernels(self) -> Desc:
        """The weights as if each incoming channel were an image of 3x3 pixels, and each outgoing a channel of it."""
        incoming, outgoing = self._channels
        shape = outgoing, incoming, 3, 3
        return Desc.strided(shape, (1, 9 * outgoing, 3 * outgoing, outgoing))

    def _kernel_map(self, name: str, kernels: Buffer, planes: Buffer) -> LinearMap:
        incoming, outgoing = self._channels
        extent = incoming, 3, 3, outgoing
        return LinearMap(name, _address(kernels), _address(planes), extent, incoming * outgoing)

    def _map(self, name: str, whole: Buffer, planes: Buffer, start: int, stop: int) -> LinearMap:
        n, channels, height, width = whole.desc.shape
        image = whole.desc.size // n
        stride = self._strides[self._channels.index(channels)]
        extent = stop - start, height, width, channels
        return LinearMap(name, _address(whole) + start * image, _address(planes), extent, stride)

    def _multiply(self, steps: list[Any], product: PrimitiveDesc, operands: Mapping[str, tuple[Desc, Buffer]]) -> None:
        self._add(steps, product, {name: Memory(desc, buffer.array) for name, (desc, buffer) in operands.items()})

    def _take_planes(self) -> tuple[Buffer, ...]:
        return tuple(self._pool.take(_floats(_PLANES * stride)) for stride in self._strides)

    def _give_back(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self._pool.give(buffer)


class _Products:
    """The 36 matrix products of `rows` squares, in all directions; planes begin at multiples of their strides."""

    def __init__(self, rows: int, incoming: int, outgoing: int, x_stride: int, y_stride: int):
        size = incoming * outgoing
        self.x = Desc.strided((_PLANES, rows, incoming), (x_stride, incoming, 1))
        self.x_turned = Desc.strided((_PLANES, incoming, rows), (x_stride, 1, incoming))
        self.y = Desc.strided((_PLANES, rows, outgoing), (y_stride, outgoing, 1))
        self.weights = Desc.strided((_PLANES, incoming, outgoing), (size, outgoing, 1))
        self.weights_turned = Desc.strided((_PLANES, outgoing, incoming), (size, 1, outgoing))
        self.forward = _fast(self.x, self.weights, self.y)
        self.back = _fast(self.y, self.weights_turned, self.x)
        self.gradient = _fast(self.x_turned, self.y, self.weights)
        self.added_gradient = _fast(self.x_turned, self.y, self.weights, add=True)


def _fast(src: Desc, weights: Desc, dst: Desc, add: bool = False) -> PrimitiveDesc:
    product = primitives.matrix_product(src, weights, dst, add)
    if not product.fast:
        raise Unimplemented(f"{product.implementation}: no fast product of {src.shape} and {weights.shape}")
    return product


class LinearMap:
    """A function of winograd.c, ready to run: between `extent`, [N, H, W, C], and planes `stride` floats apart."""

    def __init__(self, name: str, whole: int, planes: int, extent: Sequence[int], stride: int):
        self._function = ctypes.cast(getattr(_maps(), name), c_void_p)
        self._job = _Job(whole, planes, *extent, stride)
        self._run = openmp().GOMP_parallel

    def run(self) -> None:
        self._job.next = 0
        self._run(self._function, byref(self._job), 0, 0)  # by as many threads as oneDNN's own calls


class _Job(ctypes.Structure):
    _fields_ = [
        ("map", c_void_p),
        ("planes", c_void_p),
        *[(name, c_int64) for name in ("images", "height", "width", "channels", "plane", "next")],
    ]


def _chunks(n: int, squares: int, incoming: int, outgoing: int) -> Iterator[tuple[int, int]]:
    """First image and the one after the last of chunks, about equal, whose planes stay in the cache.

    But of so many images that planes are at least twice the turned weights, which every chunk reads as a whole, and
    that each thread has one.
    """
    image = 4 * _PLANES * squares * (incoming + outgoing)
    turned = 4 * _PLANES * incoming * outgoing
    count = -(-n // max(max(_BYTES_FOR_A_THREAD * threads(), 2 * turned) // image, threads()))
    yield from pairwise(n * place // count for place in range(count + 1))


def _squares(height: int, width: int) -> int:
    return -(-height // _INNER) * -(-width // _INNER)


def _floats(count: int) -> Desc:
    return Desc((count,), "float32", "a")


def _address(buffer: Buffer) -> int:
    return int(buffer.array.ctypes.data)


@functools.cache
def _maps() -> Any | None:
    spec = find_spec("cifar_hapi.engine._winograd")
    return ctypes.CDLL(spec.origin) if spec and spec.origin else None
