"""The images that a run recorded, as its network takes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.sources import Data, open_data
from cifar_hapi.data.training_loader import training_loader
from cifar_hapi.errors import DataError
from cifar_hapi.recipe import Recipe
from cifar_hapi.recorded_data import declared_again
from cifar_hapi.run import Run
from cifar_hapi.runtime import paddle_session


def run_session(run: Run) -> AbstractContextManager[str]:
    """Paddle on the device of the model that `fit` has left with `run`, else on the best there is; gives its name."""
    return paddle_session("auto" if run.model is None else str(run.manifest["device"]))


def held_out_images(run: Run, data_dir: str | Path | None, device: str, batch_size: int, how: str) -> BatchLoader:
    """The validation images; the training images, as they are, where none were held out.

    how: what could be done instead, the end of an error. Raises DataError where they are not to be had any more.
    """
    data = _opened(run, data_dir)
    part, found = ("train", data.train) if data.val is None else ("val", data.val)
    _check_recorded(run, data, part, found, how)
    return _loader(run.recipe, device)(found, batch_size, mean=data.mean, std=data.std)


def training_images(run: Run, data_dir: str | Path | None, device: str, how: str) -> BatchLoader:
    """The training images, shuffled, varied and in batches as in the run's first epoch. Raises as `held_out_images`."""
    data = _opened(run, data_dir)
    _check_recorded(run, data, "train", data.train, how)
    return training_loader(_loader(run.recipe, device), run.recipe, data)


def _opened(run: Run, data_dir: str | Path | None) -> Data:
    return open_data(declared_again(run, data_dir=data_dir), run.recipe.seed)


def _check_recorded(run: Run, data: Data, part: str, found: ImageSet, how: str) -> None:
    recorded = run.data.parts.get(part)
    if recorded is None or recorded.sha256 != found.sha256():
        raise DataError(f"{data.source}: not the images that run {run.path} recorded ({part}); {how}")


def _loader(recipe: Recipe, device: str) -> Callable[..., BatchLoader]:
    return partial(BatchLoader, image_size=recipe.data.image_size, data_format=recipe.data_format(device))
