"""A few training images of a data set, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifar_hapi.data.augment import augment
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.resize import resize
from cifar_hapi.data.sources import Data, open_data
from cifar_hapi.data.training_loader import declared_augmentation
from cifar_hapi.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Examples:
    """name, note: as in `Data`. images: those chosen, class by class in turn."""

    name: str
    note: str
    images: ImageSet


def choose_examples(
    source: str = "auto",
    *,
    data_dir: str | Path | None = None,
    count: int = 30,
    seed: int = 0,
    augmented: bool = False,
    recipe: str | Path | Recipe = "quick",
    progress: bool = False,
) -> Examples:
    """`count` training images of `source`, a class after the other and again, chosen by `seed`; all if there are fewer.

    augmented: as a network in training gets them, but for normalisation: in the size and by the `augment` section of
    `recipe`, as in the epochs after those of small images. Raises RecipeError and DataError as `fit` does.
    """
    base = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    place = {"data.dir": str(data_dir)} if data_dir else {}
    declared = base.with_overrides({"data.source": source, "data.val_fraction": 0.0, **place})
    data = open_data(declared.data, progress=progress)
    chosen = data.train.take(_in_turn(data.train.labels, count, seed))
    return Examples(data.name, data.note, _augmented(chosen, data, declared, seed) if augmented else chosen)


def _in_turn(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Places of images, int64 [count]: one of each class, then a second one of each, and so on."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rounds = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels[order] == label)
        rounds[members] = np.arange(len(members))
    return np.asarray(order[np.lexsort((labels[order], rounds))][:count])


def _augmented(images: ImageSet, data: Data, recipe: Recipe, seed: int) -> ImageSet:
    augmentation, size = declared_augmentation(recipe), recipe.data.image_size
    loader = BatchLoader(
        images, len(images), image_size=size, augmentation=augmentation, mean=data.mean, seed=seed, std=data.std
    )
    seen = resize(np.asarray(images.images), size)
    pixels = augment(seen, loader.choices(epoch=0, step=0), augmentation, fill=loader.fill)
    return ImageSet(pixels, images.labels, images.class_names)
