"""Images and labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cifar_hapi.data.pixels import MappedImages, Pixels, blocks


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, as one array, in memory or mapped from a file.

    images: uint8 [N, H, W, 3], RGB, contiguous. labels: int64 [N], each in [0, len(class_names)).
    """

    images: Pixels
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> ImageSet:
        """The images at `indices`, in that order, as a copy; those that are mapped stay where they are."""
        images = self.images.chosen(indices) if isinstance(self.images, MappedImages) else self.images[indices]
        return ImageSet(images, self.labels[indices], self.class_names)

    def sha256(self) -> str:
        """Hexadecimal SHA-256 over shape, pixels and labels, which says what data a run has seen."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:  # once: it goes through every pixel, which may be on a disk
        digest = hashlib.sha256(str(self.images.shape).encode())
        for block in blocks(self.images):
            digest.update(block.data)
        digest.update(self.labels.astype("<i8").data)
        return digest.hexdigest()
