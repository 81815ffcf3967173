"""From uint8 pixels to the float32 input of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from cifar_hapi.data.pixels import Pixels, blocks

DataFormat = Literal["NCHW", "NHWC"]

# Mean and standard deviation of ImageNet's training images, by which networks for it have been fed since Torch's.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float], data_format: DataFormat) -> np.ndarray:
    """(images / 255 - mean) / std for each channel, as float32 [B, C, H, W] or [B, H, W, C].

    images: uint8 [B, H, W, C]. mean, std: one number a channel, in units where pixels span [0, 1].
    """
    centre = 255 * np.asarray(mean, np.float32)
    scale = 1 / (255 * np.asarray(std, np.float32))
    if data_format == "NCHW":
        images = images.transpose(0, 3, 1, 2)
        centre, scale = centre[:, None, None], scale[:, None, None]
    else:
        # A whole image of constants: NumPy's inner loop over an axis of 3 would take 8 times as long.
        centre, scale = np.full(images.shape[1:], centre), np.full(images.shape[1:], scale)
    pixels = images.astype(np.float32, order="C")
    pixels -= centre
    pixels *= scale
    return pixels


def channel_statistics(images: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, in units where pixels span [0, 1].

    images: uint8 [N, H, W, C], N >= 1. Pixel values are counted, not summed up in floating point, so no
    precision is lost however many there are. The standard deviation is that of the population.
    """
    values = np.arange(256)
    counts = _value_counts(images)
    pixels = math.prod(images.shape[:-1])
    means = counts @ values / pixels
    variances = (counts * (values - means[:, None]) ** 2).sum(axis=1) / pixels
    return tuple((means / 255).tolist()), tuple((np.sqrt(variances) / 255).tolist())


def _value_counts(images: Pixels) -> np.ndarray:
    """How often each channel takes each value, int64 [C, 256]; in blocks, as bincount copies to int64."""
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for block in blocks(images):
        for channel, count in enumerate(counts):
            count += np.bincount(block[..., channel].ravel(), minlength=256)
    return counts
