"""A generated stand-in for CIFAR-10: ten shapes and textures, in the archive's format, for machines without network.

Every value comes from PCG64 and from arithmetic that IEEE 754 rounds exactly (no sines, no matrix products), so the
same seed gives the same bytes on every machine and NumPy version.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import DataError
from . import archive_format
from .archives import LAYOUTS

Split = Literal["train", "test"]

SIDE = 32
TRAIN, TEST = 6_000, 2_000  # images, unless said otherwise: `make train` on two slow cores stays under 90 seconds
BLOCK = 100  # images drawn at once: few enough for the arrays to stay in the cache


def write_synthetic(folder: Path, train: int = TRAIN, test: int = TEST, seed: int = 0) -> Path:
    """Generate the set and write it as `folder/cifar-10-batches-py/`, which is returned.

    train, test: numbers of images, spread over five training files and one test file. The folder appears whole or
    not at all, and a set of the same numbers and seed that is there already is kept. Raises DataError when the
    folder holds something else, ValueError when a file would be empty.
    """
    if train < 5 or test < 1:
        raise ValueError(f"synthetic set of {train} + {test} images: at least 5 + 1 are needed, one a file")
    layout = LAYOUTS["cifar10"]
    target = folder / layout.folder
    meta = _meta(train, test, seed)
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".synthetic-") as temporary:
            whole = Path(temporary) / layout.folder
            whole.mkdir()
            for file, batch in _batches(train, test, seed):
                (whole / file).write_bytes(batch)
            (whole / layout.meta).write_bytes(meta)
            _publish(whole, target)
    present = target / layout.meta
    if not present.is_file() or present.read_bytes() != meta:
        raise DataError(f"{target} holds other data than the synthetic set; choose another folder or remove it")
    return target


def draw(split: Split, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images of a split: uint8 [count, 3, 32, 32] and labels, int64 [count].

    An image depends on the seed, the split and its index alone. Every ten images show ten classes.
    """
    blocks = [_draw_block(split, index, seed) for index in range(-(-count // BLOCK))]
    images = np.concatenate([images for images, _ in blocks])
    labels = np.concatenate([labels for _, labels in blocks])
    return images[:count], labels[:count]


def _batches(train: int, test: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the training files and the test file."""
    layout = LAYOUTS["cifar10"]
    images, labels = draw("train", train, seed)
    parts = zip(np.array_split(images, 5), np.array_split(labels, 5), strict=True)
    for number, (file, part) in enumerate(zip(layout.train, parts, strict=True), start=1):
        yield file, _batch(*part, f"training batch {number} of 5")
    yield layout.test, _batch(*draw("test", test, seed), "testing batch 1 of 1")


def _batch(images: np.ndarray, labels: np.ndarray, title: str) -> bytes:
    rows = images.reshape(len(images), -1)
    return archive_format.dumps({"batch_label": title, "labels": labels.tolist(), "data": rows})


def _meta(train: int, test: int, seed: int) -> bytes:
    """What tells this set from any other; the version rises with every change of what is drawn."""
    return archive_format.dumps(
        {
            "num_cases_per_batch": -(-train // 5),
            "label_names": list(CLASS_NAMES),
            "num_vis": 3 * SIDE * SIDE,
            "synthetic": f"version 1, {train} training images, {test} test images, seed {seed}",
        }
    )


def _publish(whole: Path, target: Path) -> None:
    try:
        whole.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was first, and what it wrote is looked at by the caller
            raise


def _draw_block(split: Split, index: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64([seed, ("train", "test").index(split), index]))
    labels = np.argsort(rng.random((BLOCK // 10, 10)), axis=1).ravel()
    figure, ground = _colours(rng)
    pixels = ground + _ground_pattern(rng)
    pixels += _coverage(rng, labels) * (figure - pixels)
    _add_clutter(rng, pixels)
    pixels *= _lighting(rng)
    pixels += _uniform(rng, 0.03, 0.3) * _uniform(rng, -1, 1, pixels.shape)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8), labels


def _uniform(
    rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...] = (BLOCK, 1, 1, 1)
) -> np.ndarray:
    """float32 in [low, high); by default one an image, to go with [image, channel, row, column]."""
    return rng.random(shape, np.float32) * np.float32(high - low) + np.float32(low)


def _sign(rng: np.random.Generator) -> np.ndarray:
    return np.where(_uniform(rng, 0, 1) < 0.5, np.float32(1), np.float32(-1))


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Figure and ground, each [image, 3, 1, 1]: of any hue, and either may be the lighter one."""
    middle = _uniform(rng, 0.35, 0.65)
    contrast = _uniform(rng, 0.07, 0.28) * _sign(rng)
    tint = _uniform(rng, -0.15, 0.15, (2, BLOCK, 3, 1, 1))
    tint -= (tint[:, :, 0:1] + tint[:, :, 1:2] + tint[:, :, 2:3]) / 3
    return middle + contrast + tint[0], middle - contrast + tint[1]


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each pixel from the middle of the image, [1, 1, 32, 1] and [1, 1, 1, 32], in pixels."""
    line = np.arange(SIDE, dtype=np.float32) - np.float32((SIDE - 1) / 2)
    return line.reshape(1, 1, SIDE, 1), line.reshape(1, 1, 1, SIDE)


def _ground_pattern(rng: np.random.Generator) -> np.ndarray:
    """Soft blotches, [image, 3, 32, 32]: random values on a 5 x 5 grid, interpolated."""
    knots = _uniform(rng, -1, 1, (BLOCK, 3, 5, 5)) * _uniform(rng, 0, 0.15)
    place = np.arange(SIDE, dtype=np.float32) / np.float32(SIDE / 4)
    cell = place.astype(np.intp)
    part = place - np.floor(place)
    rows = knots.take(cell, 2) * (1 - part)[:, None] + knots.take(cell + 1, 2) * part[:, None]
    return rows.take(cell, 3) * (1 - part) + rows.take(cell + 1, 3) * part


def _coverage(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """How much of each pixel the figure covers, [image, 1, 32, 32] in [0, 1]."""
    row, column = _grid()
    row, column = row - _uniform(rng, -7, 7), column - _uniform(rng, -7, 7)
    tangent = _uniform(rng, -0.13, 0.13)  # of half the angle, which makes it up to 15 degrees either way
    cosine, sine = (1 - tangent**2) / (1 + tangent**2), 2 * tangent / (1 + tangent**2)
    x, y = _sign(rng) * (cosine * column + sine * row), cosine * row - sine * column
    size = _uniform(rng, 0, 1)
    coverage = np.empty((BLOCK, 1, SIDE, SIDE), np.float32)
    for label, distance in enumerate(FIGURES.values()):
        chosen = labels == label
        coverage[chosen] = np.clip(0.5 - distance(x[chosen], y[chosen], size[chosen]), 0, 1)
    return coverage


def _add_clutter(rng: np.random.Generator, pixels: np.ndarray) -> None:
    """Paint four blots of any colour over each image."""
    row, column = _grid()
    for _ in range(4):
        x, y = column - _uniform(rng, -16, 16), row - _uniform(rng, -16, 16)
        blot = np.clip(_uniform(rng, 0.5, 3.5) - np.maximum(np.abs(x + y), np.abs(x - y)) / 2, 0, 1)
        pixels += blot * (_uniform(rng, 0, 1, (BLOCK, 3, 1, 1)) - pixels)


def _lighting(rng: np.random.Generator) -> np.ndarray:
    """The brightness of each pixel, [image, 1, 32, 32]: a slope in any direction."""
    row, column = _grid()
    slope = 0.3 / (SIDE / 2)
    return 1 + _uniform(rng, -slope, slope) * row + _uniform(rng, -slope, slope) * column


# The figures: how far a pixel is outside (positive) or inside (negative) the figure, in pixels, from its place in
# the figure's own coordinates (pixels from the centre) and the figure's size, in [0, 1].


def _radius(size: np.ndarray) -> np.ndarray:
    return 6 + 5 * size


def _disc(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - _radius(size)


def _square(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.9 * _radius(size)


def _triangle(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.maximum(y, 0.866 * np.abs(x) - 0.5 * y) - 0.6 * _radius(size)


def _cross(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    across, along = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
    return np.maximum(across - 0.35 * _radius(size), along - 1.1 * _radius(size))


def _ring(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - 0.8 * _radius(size)) - 0.25 * _radius(size)


def _period(size: np.ndarray) -> np.ndarray:
    return 4 + 6 * size


def _off_line(place: np.ndarray, period: np.ndarray) -> np.ndarray:
    """Distance from the nearest of the lines that are a period apart."""
    turns = place / period
    return np.abs(turns - np.floor(turns + 0.5)) * period


def _horizontal_stripes(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    return _off_line(y, _period(size)) - _period(size) / 4


def _vertical_stripes(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    return _horizontal_stripes(y, x, size)


def _diagonal_stripes(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    return _horizontal_stripes(x, 0.7071 * (x + y), size)


def _checkerboard(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    horizontal, vertical = _horizontal_stripes(x, y, 2 * size), _vertical_stripes(x, y, 2 * size)
    return np.maximum(np.minimum(horizontal, vertical), -np.maximum(horizontal, vertical))


def _dots(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    period = 1.3 * _period(size)
    across, along = _off_line(x, period), _off_line(y, period)
    return np.sqrt(across * across + along * along) - 0.3 * period


FIGURES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "horizontal stripes": _horizontal_stripes,
    "vertical stripes": _vertical_stripes,
    "diagonal stripes": _diagonal_stripes,
    "checkerboard": _checkerboard,
    "dots": _dots,
}
CLASS_NAMES = tuple(FIGURES)
