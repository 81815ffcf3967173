"""Batches that are made where the network runs, from a set that was moved there once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from cifar_hapi.data.augment import Augmentation
from cifar_hapi.data.device_augment import source_pixels
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.resize import PRECISION, taps

_SHARE = 4  # a set may take a quarter of a GPU's memory; the network and its feature maps need the rest


def fits_on(device: str, *sets: ImageSet | None) -> bool:
    """Whether `device` is a GPU of whose memory (all of it, whoever uses it) the pixels take a quarter at most."""
    if not device.startswith("gpu"):
        return False
    memory = paddle.device.cuda.get_device_properties(device).total_memory
    return sum(images.images.nbytes for images in sets if images) * _SHARE <= int(memory)


class DeviceLoader(BatchLoader):
    """A `BatchLoader` whose set stays on Paddle's current device, where batches are gathered, augmented and normalised.

    Arguments and batches are those of `BatchLoader`, to within float32 rounding, as `paddle.Tensor`s on the device:
    the same random choices are drawn on the host, and moved once an epoch. No thread makes batches ahead: a GPU works
    through its queue while Python goes on.
    """

    def __init__(self, image_set: ImageSet, batch_size: int, **options: Any) -> None:
        super().__init__(image_set, batch_size, prefetch=0, **options)
        channels = image_set.images.shape[-1]
        black_and_fill = [np.zeros(channels, np.uint8), self.fill]
        # One pixel a row, so that an augmented batch is a single gather.
        pixels = np.asarray(image_set.images).reshape(-1, channels)
        self._pixels = paddle.to_tensor(np.concatenate([pixels, black_and_fill]))
        self._labels = paddle.to_tensor(image_set.labels)
        self._centre = paddle.to_tensor(255 * np.asarray(self.mean, np.float32))
        self._scale = paddle.to_tensor(1 / (255 * np.asarray(self.std, np.float32)))
        self._taps = _tap_tensors(image_set.images.shape[1:3], self.sides) if self.resized else None
        self._small_taps = _tap_tensors(self.sides, (self.small_size,) * 2) if self.small_size else None
        self._drawn: tuple[int, Any] | None = None

    def batch(self, epoch: int, step: int) -> Any:
        """The batch of one step, both counted from 0: images float32 and labels int64 [B], on the device."""
        drawn = self._epoch(epoch)[:, self._share(step)]
        indices, flipped, windows, squares = drawn[0], drawn[1].astype("bool"), drawn[2:4], drawn[4:6]
        pixels, places = self._gathered_pixels(indices)
        height, width = self.sides
        places = source_pixels(
            places,
            windows,
            flipped,
            squares,
            (height, width),
            self.augmentation or Augmentation(),
            black=pixels.shape[0] - 2,
            fill=pixels.shape[0] - 1,
        )
        pixels = paddle.gather(pixels, places.flatten()).reshape([-1, height, width, pixels.shape[1]])
        if self._small_taps and self._small_in(epoch):
            pixels = _resized(pixels.astype("int32"), self._small_taps)
        images = (pixels.astype("float32") - self._centre) * self._scale
        if self.data_format == "NCHW":
            images = images.transpose([0, 3, 1, 2])
        return images, paddle.gather(self._labels, indices)

    def _gathered_pixels(self, indices: Any) -> tuple[Any, Any]:
        """Pixels in a row, the last two black and the fill, and which images of them are those at `indices`."""
        if self._taps is None:
            return self._pixels, indices
        _, height, width, channels = self.image_set.images.shape
        lines = indices[:, None] * (height * width) + paddle.arange(height * width)
        images = paddle.gather(self._pixels, lines.flatten()).astype("int32").reshape([-1, height, width, channels])
        resized = _resized(images, self._taps).astype("uint8").reshape([-1, channels])
        return paddle.concat([resized, self._pixels[-2:]]), paddle.arange(len(indices))

    def _epoch(self, epoch: int) -> Any:
        """What is drawn for all steps of an epoch, int64 [6, images]: indices, flips, windows and squares."""
        if self._drawn is None or self._drawn[0] != epoch:
            steps = [self._step(epoch, step) for step in range(len(self))]
            self._drawn = (epoch, paddle.to_tensor(np.concatenate(steps, axis=1)))
        return self._drawn[1]

    def _step(self, epoch: int, step: int) -> np.ndarray:
        choices = self.choices(epoch, step)
        return np.concatenate([[self.indices(epoch, step), choices.flipped], choices.windows, choices.squares])


_Taps = list[list[tuple[Any, Any]]]  # of a line down and a line across, as tensors: places and weights of each tap


def _tap_tensors(before: Sequence[int], after: Sequence[int]) -> _Taps:
    pairs = [zip(*taps(*sides), strict=True) for sides in zip(before, after, strict=True)]
    return [[(paddle.to_tensor(places), paddle.to_tensor(weights)) for places, weights in each] for each in pairs]


def _resized(images: Any, lines: _Taps) -> Any:
    """As `resize.resize`, of int32 images."""
    down, across = lines
    return _scaled(_scaled(images, across, axis=2), down, axis=1)


def _scaled(images: Any, line: list[tuple[Any, Any]], axis: int) -> Any:
    """One pass of `resize.resize` over int32 images, in the integers that Pillow computes with."""
    shape = [-1 if each == axis else 1 for each in range(4)]
    total = sum(paddle.gather(images, places, axis=axis) * weights.reshape(shape) for places, weights in line)
    return (total + (1 << PRECISION - 1)) // (1 << PRECISION)
