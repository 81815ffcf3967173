"""Images and labels in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, as one array.

    images: uint8 [N, H, W, 3], RGB, contiguous. labels: int64 [N], each in [0, len(class_names)).
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> ImageSet:
        """The images at `indices`, in that order, as a copy."""
        return ImageSet(self.images[indices], self.labels[indices], self.class_names)

    def sha256(self) -> str:
        """Hexadecimal SHA-256 over shape, pixels and labels, which says what data a run has seen."""
        digest = hashlib.sha256(str(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.astype("<i8").data)
        return digest.hexdigest()
