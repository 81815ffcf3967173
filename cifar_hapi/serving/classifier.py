"""The network of a run, kept ready to be asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from cifar_hapi.data.sources import stored_size
from cifar_hapi.errors import RunError
from cifar_hapi.loading import Weights, load
from cifar_hapi.prediction import Look, probabilities_of
from cifar_hapi.run import Run
from cifar_hapi.runtime import paddle_session
from cifar_hapi.serving.batching import Classify


def image_side(run: Run) -> int:
    """The side in pixels to which images are brought before the network sees them."""
    return stored_size(run.data.name, run.recipe.data.image_size)


@contextmanager
def opened_classifier(run: Run, weights: Weights, engine: str | None, device: str, most: int) -> Iterator[Classify]:
    """What classifies up to `most` images as `predict` does, in the thread that enters this.

    Batches are filled up with grey images to the next power of two, as the engine makes ready a program for each size;
    all have been run once when this is entered. Raises RunError, RecipeError as `predict`, and RunError for a network
    that answers with what is no number.
    """
    with paddle_session(device) as device_name:
        look = Look(run.data, run.recipe.data.image_size, run.recipe.data_format(device_name))
        model = load(run, weights, engine)

        def classify(images: np.ndarray) -> np.ndarray:
            filled = np.full((_size(len(images)), *images.shape[1:]), 128, np.uint8)
            filled[: len(images)] = images
            found = probabilities_of(model, filled, len(filled), look)[: len(images)]
            if not np.isfinite(found).all():
                raise RunError(f"run {run.path}: its network's answer is no number")
            return found

        side, size = image_side(run), 1
        while size < 2 * most:
            classify(np.full((min(size, most), side, side, 3), 128, np.uint8))
            size *= 2
        yield classify


def _size(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()
