"""What int8 costs and gains: the model before and after, over all test images of the run."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cifar_hapi.data.identity import for_others
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.pixels import Pixels
from cifar_hapi.data.resize import resize
from cifar_hapi.data.sources import Data
from cifar_hapi.errors import CifarHapiError, RecipeError
from cifar_hapi.exporting import onnx_format
from cifar_hapi.exporting.network import Answer, taken
from cifar_hapi.exporting.quantisation import quantise
from cifar_hapi.run import Run
from cifar_hapi.runtime import threads

CALIBRATION_IMAGES = 512  # with 64 and 128, an airbench lost 0.2 points of accuracy, with 512 none: docs/export.md
MAX_FALL = 1.0  # percentage points; what MLPerf's rule, 99 % of the accuracy in float32, is for a good network
SPEED_BATCH = 32
_BATCH = 250
_ROUNDS, _TIMED, _PAUSE = 7, 3, 0.05  # onnxruntime's idle threads spin for some ms, which others would lack


@dataclasses.dataclass(frozen=True)
class Int8:
    """An int8 model beside the float32 one (batch norm folded) that it was made of; pairs are float32, int8.

    calibrated_on: what ranges were taken from. data, note, count: the test images, each seen once. top1: in [0, 1].
    same_top1: for how many both name the same class. difference: the largest between two logits. bytes: of the files.
    images_per_second: in onnxruntime, in batches of `batch_size` on `threads` threads, medians of turns.
    """

    calibrated_on: str
    data: str
    note: str
    count: int
    top1: tuple[float, float]
    same_top1: int
    difference: float
    bytes: tuple[int, int]
    images_per_second: tuple[float, float]
    batch_size: int
    threads: int

    @property
    def fall(self) -> float:
        """By how many percentage points the accuracy is lower; negative where it is higher."""
        return 100 * (self.top1[0] - self.top1[1])

    @property
    def accuracy(self) -> dict[str, Any]:
        """Of the int8 model, as metadata tell that of a network."""
        return {"top1": self.top1[1], "images": self.count, "data": self.data, "note": self.note}

    def to_dict(self) -> dict[str, Any]:
        pairs = {key: dict(zip(("float32", "int8"), getattr(self, key), strict=True)) for key in _PAIRS}
        return {**dataclasses.asdict(self), **pairs, "fall": self.fall}

    def rows(self) -> list[tuple[str, str]]:
        """What is printed."""
        before, after = self.top1
        (large, small), (slow, fast) = self.bytes, self.images_per_second
        same = f"same top-1 for {self.same_top1:,} of {self.count:,}"
        return [
            ("int8", f"top-1 {before:.2%} before, {after:.2%} after, {self.count:,} test images of {self.data}"),
            (
                "",
                f"{same}, largest difference of logits {self.difference:.2g}",
            ),
            ("", f"{large / 1e6:.2f} MB before, {small / 1e6:.2f} MB after"),
            (
                "",
                f"{slow:,.0f} images/s before, {fast:,.0f} after{', slower here' if fast < slow else ''}, "
                f"{self.batch_size} a batch, threads: {self.threads}",
            ),
            ("", f"calibrated on {self.calibrated_on}"),
        ]


_PAIRS = ("top1", "bytes", "images_per_second")


@dataclasses.dataclass(frozen=True)
class Int8Options:
    """`calibration_images`: how many, at most, ranges are taken from; `max_fall`: percentage points it may cost."""

    calibration_images: int = CALIBRATION_IMAGES
    max_fall: float = MAX_FALL

    @classmethod
    def checked(cls, int8: bool, calibration_images: int | None, max_fall: float | None) -> Int8Options:
        """What was asked for, None being the default. Raises RecipeError for what cannot be or changes nothing."""
        asked = {"calibration_images": calibration_images, "max_fall": max_fall}
        given = {name: value for name, value in asked.items() if value is not None}
        if given and not int8:
            raise RecipeError(f"{next(iter(given))} is for int8 alone; add --int8")
        options = cls(**given)  # type: ignore[arg-type]  # the values keep to their names
        if options.calibration_images < 1:
            raise RecipeError(f"calibration_images = {calibration_images}: expected 1 or more")
        if not 0 <= options.max_fall <= 100:
            raise RecipeError(f"max_fall = {max_fall}: expected percentage points, 0 to 100")
        return options


def make_int8(file: Path, run: Run, data: Data, facts: dict[str, Any], uint8_input: bool, options: Int8Options) -> Int8:
    """Put in the place of `file`, a float32 model with folded batch norm, its int8 form, and tell how they compare.

    Calibrated on the run's training images (all, where there are fewer than asked for), spread over the set, not
    augmented. Raises CifarHapiError where the accuracy falls by more than the options allow.
    """
    count = min(options.calibration_images, len(data.train))
    places = np.linspace(0, len(data.train) - 1, count).astype(int)
    model = quantise(file, _batches(run, data.train.images[places], uint8_input))
    before = onnx_format.open_model(file, threads())
    after = onnx_format.open_model(model.SerializeToString(), threads())
    own, other = (_logits(answer, run, data.test, uint8_input) for answer in (before, after))
    labels, (slow, fast) = data.test.labels, _speeds(before, after, next(_batches(run, _some(data.test), uint8_input)))
    large = file.stat().st_size
    about = for_others(data.name, data.note)
    found = Int8(
        f"{len(places)} training images of {about['name']}",
        about["name"],
        about["note"],
        len(labels),
        (_top1(own, labels), _top1(other, labels)),
        int((own.argmax(axis=1) == other.argmax(axis=1)).sum()),
        float(np.abs(own - other).max()),
        (large, 0),
        (slow, fast),
        SPEED_BATCH,
        threads(),
    )
    _check(found, options.max_fall)
    onnx_format.save(model, {**facts, "accuracy": found.accuracy, "calibrated_on": found.calibrated_on}, file)
    return dataclasses.replace(found, bytes=(large, file.stat().st_size))


def _check(found: Int8, max_fall: float) -> None:
    if not np.isfinite(found.difference):
        raise CifarHapiError("not exported: in int8, or before, a logit is no number")
    if found.fall > max_fall:
        raise CifarHapiError(
            f"not exported: int8 lowers top-1 by {found.fall:.2f} points, from {found.top1[0]:.2%} to "
            f"{found.top1[1]:.2%} of {found.count:,} test images; allowed are {max_fall:g}; --max-fall allows more"
        )


def _batches(run: Run, pixels: Pixels, uint8_input: bool) -> Iterator[np.ndarray]:
    """`pixels` as the model takes them, some at a time."""
    for start in range(0, len(pixels), _BATCH):
        sized = resize(pixels[start : start + _BATCH], run.recipe.data.image_size)
        yield np.ascontiguousarray(taken(run, sized, uint8_input))


def _logits(answer: Answer, run: Run, test: ImageSet, uint8_input: bool) -> np.ndarray:
    return np.concatenate([answer(batch) for batch in _batches(run, test.images, uint8_input)])


def _top1(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def _some(test: ImageSet) -> np.ndarray:
    """A batch to be timed; a small set is gone through again."""
    return test.images[np.arange(SPEED_BATCH) % len(test)]


def _speeds(before: Answer, after: Answer, images: np.ndarray) -> tuple[float, float]:
    """Images a second of both, which take turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for answer, found in zip((before, after), seconds, strict=True):
            time.sleep(_PAUSE)
            answer(images)
            for _ in range(_TIMED):
                start = time.perf_counter()
                answer(images)
                found.append(time.perf_counter() - start)
    slow, fast = (len(images) / statistics.median(found) for found in seconds)
    return slow, fast
