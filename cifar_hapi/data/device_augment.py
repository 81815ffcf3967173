"""Crops, flips and cutout on the device: which pixel of the set each pixel of an augmented batch shows."""

from __future__ import annotations

from typing import Any

import paddle

from cifar_hapi.data.augment import Augmentation


def source_pixels(
    indices: Any,
    windows: Any,
    flipped: Any,
    squares: Any,
    size: tuple[int, int],
    augmentation: Augmentation,
    black: int,
    fill: int,
) -> Any:
    """Where each pixel of an augmented batch comes from, int64 [B, H, W]: a place in all pixels of the set, in a row.

    indices: int64 [B], places in the set. windows, flipped, squares: int64 [2, B], bool [B], int64 [2, B], as in
    `augment.Choices`. size: (H, W). black, fill: the places of a black pixel and of one in the colour of cutout.
    The same choices give the very pixels that `augment.augment` gives.
    """
    height, width = size
    rows, columns = paddle.arange(height), paddle.arange(width)
    turned = paddle.where(flipped[:, None], width - 1 - columns, columns)
    top, left = windows[:, :, None] - augmentation.crop_padding
    seen_rows, seen_columns = rows + top, turned + left
    lines = indices[:, None] * height + _mirrored(seen_rows, height)
    pixels = lines[:, :, None] * width + _mirrored(seen_columns, width)[:, None, :]
    if augmentation.padding_mode == "zero":
        inside = _within(seen_rows, height)[:, :, None] & _within(seen_columns, width)[:, None, :]
        pixels = paddle.where(inside, pixels, paddle.full_like(pixels, black))
    if augmentation.cutout:
        top, left = squares[:, :, None]
        in_rows, in_columns = _within(rows - top, augmentation.cutout), _within(columns - left, augmentation.cutout)
        square = in_rows[:, :, None] & in_columns[:, None, :]
        pixels = paddle.where(square, paddle.full_like(pixels, fill), pixels)
    return pixels


def _mirrored(places: Any, size: int) -> Any:
    """Where places outside of 0..size-1 lie when the border pixels are mirrors."""
    period = max(2 * (size - 1), 1)
    places = places % period
    return paddle.minimum(places, period - places)


def _within(places: Any, size: int) -> Any:
    return (places >= 0) & (places < size)
