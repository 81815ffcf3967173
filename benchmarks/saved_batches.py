"""Normalised images in a file, so that every contender gets the same; read without Paddle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Batches = list[tuple[np.ndarray, np.ndarray]]


def save_images(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write images, float32 [N, 3, H, W], and labels, int64 [N], as .npz."""
    np.savez(path, images=images, labels=labels)


def load_batches(path: Path, batch_size: int) -> Batches:
    """Whole batches of a file of `save_images`: (images, labels)."""
    with np.load(path) as saved:
        images, labels = saved["images"], saved["labels"]
    starts = range(0, len(labels) - batch_size + 1, batch_size)
    if not starts:
        raise ValueError(f"batch size {batch_size}: {path} has only {len(labels)} images")
    return [(images[start : start + batch_size], labels[start : start + batch_size]) for start in starts]
