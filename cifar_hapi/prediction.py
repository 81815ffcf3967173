"""What a trained model says of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifar_hapi.data.folder import list_images
from cifar_hapi.data.identity import DataIdentity
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.normalisation import DataFormat
from cifar_hapi.data.picture_file import read_image
from cifar_hapi.data.sources import stored_size
from cifar_hapi.errors import DataError
from cifar_hapi.loading import Weights, load
from cifar_hapi.metrics import softmax
from cifar_hapi.model import Model
from cifar_hapi.run import Run
from cifar_hapi.runtime import paddle_session

Images = np.ndarray | str | Path | Sequence[str | Path]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was predicted for N images.

    labels: int64 [N]. probabilities: float64 [N, C], each row sums to 1. names: the predicted classes. sources: the
    image files, or "image 0", "image 1", ... for arrays.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    names: tuple[str, ...]
    sources: tuple[str, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def records(self) -> list[dict[str, Any]]:
        """One plain dictionary an image: `image`, `label`, `class`, `probabilities` by class name."""
        return [
            {
                "image": source,
                "label": int(label),
                "class": name,
                "probabilities": dict(zip(self.class_names, row.tolist(), strict=True)),
            }
            for source, label, name, row in zip(self.sources, self.labels, self.names, self.probabilities, strict=True)
        ]


def predict(
    run: Run | str | Path,
    images: Images,
    *,
    weights: Weights = "latest",
    batch_size: int = 250,
    engine: str | None = None,
    device: str = "auto",
) -> Predictions:
    """Classify images with a run's weights.

    images: uint8 RGB arrays [N, H, W, 3] or [H, W, 3] of the size of the set that the run was trained on (of CIFAR
    32x32, whatever `data.image_size` it brought them to); or a folder of images, or image files, which are converted to
    RGB, resized and cropped to that size.
    engine: "auto", "native" or "onednn"; the recipe's if absent.

    Raises RunError for a run or weights that can't be used, RecipeError for an engine that can't be had, DataError for
    images that can't be read or are of no use.
    """
    run = run if isinstance(run, Run) else Run(run)
    size, names = run.recipe.data.image_size, run.data.class_names
    array, sources = _as_array(images, stored_size(run.data.name, size))
    with paddle_session(device) as device_name:
        look = Look(run.data, size, run.recipe.data_format(device_name))
        probabilities = probabilities_of(load(run, weights, engine), array, batch_size, look)
    labels = probabilities.argmax(axis=1)
    return Predictions(labels, probabilities, tuple(names[label] for label in labels), sources, names)


@dataclass(frozen=True)
class Look:
    """How images are brought before a run's network. data: whose mean and standard deviation normalise them."""

    data: DataIdentity
    image_size: int
    data_format: DataFormat


def probabilities_of(model: Model, images: np.ndarray, batch_size: int, look: Look) -> np.ndarray:
    """What a run's `model` says of `images`, uint8 [N, S, S, 3]: float64 [N, C], each row sums to 1."""
    loader = BatchLoader(
        ImageSet(images, np.zeros(len(images), dtype=np.int64), look.data.class_names),
        batch_size,
        image_size=look.image_size,
        mean=look.data.mean,
        std=look.data.std,
        data_format=look.data_format,
        prefetch=2 if len(images) > batch_size else 0,
    )
    (logits,) = model.predict(loader, stack_outputs=True, verbose=0)
    return softmax(logits)


def _as_array(images: Images, size: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 [N, size, size, 3], and what to call each."""
    if isinstance(images, np.ndarray):
        array = images[None] if images.ndim == 3 else images
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (size, size, 3) or not len(array):
            raise DataError(f"images: {images.dtype} {list(images.shape)}: expected uint8 [N, {size}, {size}, 3]")
        return array, tuple(f"image {number}" for number in range(len(array)))
    paths = [images] if isinstance(images, str | Path) else list(images)
    files = [file for path in map(Path, paths) for file in _image_files(path)]
    if not files:
        raise DataError(f"images: none in {', '.join(map(str, paths)) or 'an empty list'}")
    return np.stack([read_image(file, size) for file in files]), tuple(map(str, files))


def _image_files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    return list_images(path) if path.is_dir() else [path]
