"""Feature maps and their gradients in memory: aligned, laid out for speed, used again as soon as nothing needs them."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from cifar_hapi.engine.onednn import Desc, Dtype, Layout, Memory, multiplies_tiles

_BLOCK = 16  # channels


class Buffer:
    """Memory with a count of its users. One that is not `pooled` is never given to another use."""

    def __init__(self, desc: Desc, pooled: bool = False):
        self.array = aligned_zeros(desc.size)
        self.desc, self.memory = desc, Memory(desc, self.array)
        self.users, self.pooled = 1, pooled

    @property
    def overwritable(self) -> bool:
        """Whether its last reader may write its result here."""
        return self.pooled and self.users == 1

    def floats(self) -> np.ndarray:
        """A view of the memory as a flat float32 array."""
        return self.array.view(np.float32)

    def image(self) -> np.ndarray:
        """A view of a feature map, [N, H, W, C], or [N, H, W, C / 16, 16] of a blocked one; bfloat16 as uint16."""
        (n, c, h, w), dtype = self.desc.shape, np.float32 if self.desc.dtype == "float32" else np.uint16
        if self.desc.tag == "nhwc":
            return self.array.view(dtype).reshape(n, h, w, c)
        return self.array.view(dtype).reshape(n, c // _BLOCK, h, w, _BLOCK).transpose(0, 2, 3, 1, 4)

    def part(self, start: int, stop: int) -> Memory:
        """The images of a feature map from `start` up to `stop`, in their place."""
        n, *rest = self.desc.shape
        image = self.desc.size // n
        return Memory(Desc((stop - start, *rest), self.desc.dtype, self.desc.tag), self.array[start * image :])


class BufferPool:
    """Buffers by shape, type and layout; `take` one, and `give` it back when its last user is done."""

    def __init__(self) -> None:
        self._free: dict[tuple[Any, ...], list[Buffer]] = defaultdict(list)
        self.bytes = 0

    def take(self, desc: Desc) -> Buffer:
        free = self._free[_key(desc)]
        buffer = free.pop() if free else self.keep(desc, pooled=True)
        buffer.users = 1
        return buffer

    def give(self, buffer: Buffer) -> None:
        buffer.users -= 1
        if not buffer.users and buffer.pooled:
            self._free[_key(buffer.desc)].append(buffer)

    def keep(self, desc: Desc, pooled: bool = False) -> Buffer:
        """A new buffer, full of zeros, that is not given to another use."""
        self.bytes += desc.size
        return Buffer(desc, pooled)


class Scratchpad:
    """What calls need while they run; one memory for all calls of a program, because they run one after the other."""

    def __init__(self) -> None:
        self._memories: list[Memory] = []
        self.bytes = 0

    def memory(self, desc: Desc) -> Memory:
        self._memories.append(Memory(desc))
        self.bytes = max(self.bytes, desc.size)
        return self._memories[-1]

    def allocate(self) -> None:
        self._array = aligned_zeros(self.bytes)
        for memory in self._memories:
            memory.point_to(self._array.ctypes.data)


def layout(shape: Sequence[int], dtype: Dtype) -> Layout:
    """The layout in which a feature map [N, C, H, W] is computed fastest.

    Measured with oneDNN 3.6. With AMX, in bfloat16: convolutions are up to 14 times as fast channels-last, as only
    there they multiply tiles. Without it, on Zen 4: they are 4 to 20 % faster in blocks where maps are large or wide;
    elsewhere they are not, and batch norm is faster channels-last. In float32 channels-last is as fast or faster.
    """
    _, c, h, w = shape
    large = h * w >= 256 or c >= 256
    in_blocks = dtype == "bfloat16" and c % _BLOCK == 0 and large and not multiplies_tiles()
    return "blocked" if in_blocks else "nhwc"


def floats_at(address: int, count: int) -> np.ndarray:
    """The `count` float32 numbers at an address, as an array that may be written to while they are there."""
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


def aligned_zeros(size: int) -> np.ndarray:
    """Zeros, uint8, at an address that is a multiple of 64."""
    array = np.zeros(size + 64, dtype=np.uint8)
    offset = -array.ctypes.data % 64
    return array[offset : offset + size]


def _key(desc: Desc) -> tuple[Any, ...]:
    return desc.shape, desc.dtype, desc.tag
