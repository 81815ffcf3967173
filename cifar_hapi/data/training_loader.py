"""The training images as a recipe declares them."""

from __future__ import annotations

from collections.abc import Callable

from cifar_hapi.data.augment import Augmentation
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.sources import Data
from cifar_hapi.recipe import Recipe


def training_loader(loader: Callable[..., BatchLoader], recipe: Recipe, data: Data) -> BatchLoader:
    """The training images, shuffled and varied as `recipe` says; `loader` makes it, a BatchLoader or one like it."""
    return loader(
        data.train,
        recipe.batch_size,
        augmentation=declared_augmentation(recipe),
        small_size=recipe.augment.small_size,
        small_epochs=recipe.augment.small_epochs,
        mean=data.mean,
        std=data.std,
        shuffle=True,
        drop_last=len(data.train) >= recipe.batch_size,  # batch norm should not see a last batch of a few images
        seed=recipe.seed,
    )


def declared_augmentation(recipe: Recipe) -> Augmentation:
    """How `recipe` varies training images, but for their size in the first epochs."""
    asked = recipe.augment
    return Augmentation(
        crop_padding=asked.crop_padding, padding_mode=asked.padding_mode, flip=asked.flip, cutout=asked.cutout
    )
