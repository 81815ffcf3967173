"""Random crops, flips and cutout, on whole batches of uint8 images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cifar_hapi.errors import RecipeError


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, in this order: crop, flip, cutout. The defaults do nothing.

    crop_padding: pixels added on each side before a window of the original size is cut out at random.
    padding_mode: "reflect" mirrors the image at its border, "zero" adds black pixels.
    flip: "random" mirrors each image left to right with probability 1/2 each time. "alternating" does so with
        a fixed, pseudo-random half of the set in even epochs and with the other in odd ones, so two epochs
        show both orientations of every image (Jordan 2024, arXiv 2404.00498, section 3.6).
    cutout: side in pixels of a square blotted out at a random place, cut off at the border of the image
        (DeVries & Taylor 2017, arXiv 1708.04552); 0 for none.

    Raises RecipeError for negative numbers and unknown words.
    """

    crop_padding: int = 0
    padding_mode: Literal["reflect", "zero"] = "reflect"
    flip: Literal["random", "alternating", "none"] = "none"
    cutout: int = 0

    def __post_init__(self) -> None:
        for key in ("crop_padding", "cutout"):
            if getattr(self, key) < 0:
                raise RecipeError(f"augment.{key} is {getattr(self, key)}: it must be 0 or more pixels")
        for key, words in (("padding_mode", _PAD_MODES), ("flip", ("random", "alternating", "none"))):
            if getattr(self, key) not in words:
                raise RecipeError(f"augment.{key} is {getattr(self, key)!r}: it must be {' or '.join(words)}")


@dataclass(frozen=True, eq=False)
class Choices:
    """What chance has decided for the B images of a batch.

    windows: int64 [2, B], top and left of the crop in the padded image; zeros where nothing is cropped.
    flipped: bool [B]. squares: int64 [2, B], top and left of the cutout, which may lie outside of the image.
    """

    windows: np.ndarray
    flipped: np.ndarray
    squares: np.ndarray

    def of(self, images: slice) -> Choices:
        """Those for some of the batch."""
        return Choices(self.windows[:, images], self.flipped[images], self.squares[:, images])


def draw_choices(
    size: tuple[int, ...],
    indices: np.ndarray,
    epoch: int,
    rng: np.random.Generator,
    augmentation: Augmentation,
    *,
    seed: int = 0,
) -> Choices:
    """The random choices for a batch of images of `size` (height, width).

    indices: int64 [B], the place of each image in the set; they, the epoch and the seed of the run decide alternating
    flips, and rng all else.
    """
    batch, (height, width), padding = len(indices), size, augmentation.crop_padding
    windows, squares = np.zeros((2, 2, batch), np.int64)
    flipped = np.zeros(batch, bool)
    if padding:
        windows = rng.integers(0, 2 * padding + 1, (2, batch))
    if augmentation.flip == "random":
        flipped = rng.integers(0, 2, batch, dtype=bool)
    elif augmentation.flip == "alternating":
        flipped = _alternating(indices, epoch, seed)
    if augmentation.cutout:
        centres = np.stack([rng.integers(0, height, batch), rng.integers(0, width, batch)])
        squares = centres - augmentation.cutout // 2
    return Choices(windows, flipped, squares)


def augment(
    images: np.ndarray,
    choices: Choices,
    augmentation: Augmentation,
    *,
    fill: Sequence[int] | np.ndarray = (0, 0, 0),
) -> np.ndarray:
    """An augmented copy of a batch, uint8 [B, H, W, C].

    images: uint8 [B, H, W, C], contiguous. choices: from `draw_choices` for the same augmentation. fill: uint8 [C],
    the colour of cutout (the mean colour does what the paper's zero after normalisation does).
    """
    return _cut(_padded(images, augmentation), np.arange(len(images)), choices, augmentation, fill)


class Canvases:
    """A whole set of images, padded once instead of in every batch, which is half of the work of `augment`.

    images: uint8 [N, H, W, C], contiguous. What is kept takes `Canvases.size(images.shape, augmentation)` bytes.
    """

    def __init__(self, images: np.ndarray, augmentation: Augmentation) -> None:
        self._pixels, self._augmentation = _padded(images, augmentation), augmentation

    @staticmethod
    def size(shape: Sequence[int], augmentation: Augmentation) -> int:
        """The bytes that the canvases of images of `shape` [N, H, W, C] take."""
        images, height, width, channels = shape
        margins = 2 * augmentation.crop_padding
        return images * (height + margins) * (width + margins) * channels

    def augment(
        self, indices: np.ndarray, choices: Choices, *, fill: Sequence[int] | np.ndarray = (0, 0, 0)
    ) -> np.ndarray:
        """The pixels that `augment(images[indices], choices, ...)` gives, uint8 [B, H, W, C]. indices: int64 [B]."""
        return _cut(self._pixels, indices, choices, self._augmentation, fill)


_PAD_MODES: dict[str, Literal["reflect", "constant"]] = {"reflect": "reflect", "zero": "constant"}


def _padded(images: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Images with a margin, [B, H + 2 * padding, W + 2 * padding], a pixel one item of C bytes.

    Moved whole, flips took half the time, cutout an eighth (NumPy 2.4).
    """
    pixels = images.view(f"V{images.shape[-1]}")[..., 0]
    margin = (augmentation.crop_padding, augmentation.crop_padding)
    return np.pad(pixels, ((0, 0), margin, margin), mode=_PAD_MODES[augmentation.padding_mode])


def _cut(
    canvases: np.ndarray,
    places: np.ndarray,
    choices: Choices,
    augmentation: Augmentation,
    fill: Sequence[int] | np.ndarray,
) -> np.ndarray:
    """The chosen windows of the canvases at `places`, flipped, with cutout: uint8 [B, H, W, C]."""
    margin = 2 * augmentation.crop_padding
    sides = (canvases.shape[1] - margin, canvases.shape[2] - margin)
    top, left = choices.windows
    pixels: np.ndarray = sliding_window_view(canvases, sides, axis=(1, 2))[places, top, left]
    if augmentation.flip != "none":
        pixels[choices.flipped] = pixels[choices.flipped, :, ::-1]
    if augmentation.cutout:
        inside = _inside(choices.squares, pixels.shape, augmentation.cutout)
        pixels[inside] = np.asarray(fill, np.uint8).view(pixels.dtype)
    return pixels[..., None].view(np.uint8)


def _alternating(indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
    """Which images are flipped, bool [B]: one coin for each image of the set, turned over every epoch."""
    coins = np.random.Generator(np.random.Philox(seed)).integers(0, 2, indices.max() + 1, dtype=bool)
    flipped: np.ndarray = coins[indices] ^ bool(epoch % 2)
    return flipped


def _inside(squares: np.ndarray, shape: tuple[int, ...], side: int) -> np.ndarray:
    """Which pixels lie in the square of their image, bool [B, H, W]."""
    _, height, width = shape
    top, left = squares[:, :, None]
    rows, columns = np.arange(height), np.arange(width)
    in_rows = (top <= rows) & (rows < top + side)
    in_columns = (left <= columns) & (columns < left + side)
    inside: np.ndarray = in_rows[:, :, None] & in_columns[:, None, :]
    return inside
