"""The pixels of a set: an array in memory, or rows of one on disk that is larger than it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_BLOCK = 2**22  # bytes


class MappedImages:
    """N rows of a mapped array, which are read when they are asked for; choosing among them reads none.

    mapped: uint8 [M, H, W, C], read-only. rows: int64 [N], each in [0, M). Like an array it has `shape`, `dtype`,
    `nbytes`, `take` and indices along its first axis, which give arrays in memory.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, mapped: np.ndarray, rows: np.ndarray) -> None:
        self._mapped, self._rows = mapped.view(np.ndarray), rows
        self.shape = (len(rows), *mapped.shape[1:])
        self.nbytes = int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, places: Any) -> np.ndarray:
        """A copy of the images at `places`: a number, a slice, or an array of numbers."""
        return self._mapped.take(self._rows[places], axis=0)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them, in memory."""
        return np.asarray(self[:], dtype)

    def take(self, indices: np.ndarray, axis: int = 0) -> np.ndarray:
        """A copy of the images at `indices`, as of an array."""
        if axis:
            raise ValueError(f"axis {axis}: images are taken along the first axis alone")
        return self[indices]

    def chosen(self, indices: np.ndarray) -> MappedImages:
        """Those at `indices`, in that order, not read."""
        return MappedImages(self._mapped, self._rows[indices])


Pixels = np.ndarray | MappedImages


def blocks(images: Pixels) -> Iterator[np.ndarray]:
    """The images in order, uint8 [n, H, W, C], of at most 4 MiB but for larger single ones; contiguous."""
    size = max(1, _BLOCK // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), size):
        yield np.ascontiguousarray(images[start : start + size])
