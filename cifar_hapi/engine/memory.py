"""Feature maps and their gradients in memory: channels-last, aligned, and used again as soon as nothing needs them."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from cifar_hapi.engine.onednn import Desc, Memory


class Buffer:
    """Memory with a count of its users. One that is not `pooled` is never given to another use."""

    def __init__(self, desc: Desc, pooled: bool = False):
        self.array = _aligned(desc.size)
        self.memory = Memory(desc, self.array)
        self.users, self.pooled = 1, pooled

    def floats(self) -> np.ndarray:
        """A view of the memory as a flat float32 array."""
        return self.array.view(np.float32)

    def image(self) -> np.ndarray:
        """A view [N, H, W, C] of a feature map; bfloat16 as the uint16 that carries it."""
        desc = self.memory.desc
        n, c, h, w = desc.shape
        return self.array.view(np.float32 if desc.dtype == "float32" else np.uint16).reshape(n, h, w, c)


class BufferPool:
    """Buffers by shape; `take` one, and `give` it back when its last user is done."""

    def __init__(self) -> None:
        self._free: dict[tuple[Any, ...], list[Buffer]] = defaultdict(list)

    def take(self, desc: Desc) -> Buffer:
        free = self._free[desc.shape, desc.dtype]
        buffer = free.pop() if free else Buffer(desc, pooled=True)
        buffer.users = 1
        return buffer

    def give(self, buffer: Buffer) -> None:
        buffer.users -= 1
        if not buffer.users and buffer.pooled:
            self._free[buffer.memory.desc.shape, buffer.memory.desc.dtype].append(buffer)


def floats_at(address: int, count: int) -> np.ndarray:
    """The `count` float32 numbers at an address, as an array that may be written to while they are there."""
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


def convolved(shape: Sequence[int], weights: Sequence[int], stride: int, padding: int) -> tuple[int, ...]:
    """[N, O, H, W] of a convolution of [N, I, H, W] with [O, I, k, k]."""
    n, _, h, w = shape
    return (n, weights[0], *((side + 2 * padding - weights[2]) // stride + 1 for side in (h, w)))


def _aligned(size: int) -> np.ndarray:
    """Zeros, uint8, at an address that is a multiple of 64."""
    array = np.zeros(size + 64, dtype=np.uint8)
    offset = -array.ctypes.data % 64
    return array[offset : offset + size]
