"""The images that an exported model is compared on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifar_hapi.data.identity import for_others
from cifar_hapi.data.resize import resize
from cifar_hapi.data.sources import Data, is_on_disk, open_data
from cifar_hapi.data.synthetic import draw
from cifar_hapi.errors import DataError
from cifar_hapi.recorded_data import declared_again
from cifar_hapi.run import Run

COUNT = 64


@dataclass(frozen=True, eq=False)
class Sample:
    """pixels: uint8 [N, H, W, 3], of the size that the network sees. source: in words, what they are.

    missing: why they are not the run's own, "" where they are; it may name folders of this machine.
    """

    pixels: np.ndarray
    source: str
    missing: str = ""


def sample_images(run: Run, data_dir: str | Path | None = None, count: int = COUNT) -> Sample:
    """`count` test images of the run, spread over the set; generated ones where these cannot be had, and why.

    Nothing is downloaded. data_dir: where they are looked for; given, they must be there: raises DataError.
    """
    size = run.recipe.data.image_size
    try:
        found = own_data(run, data_dir, parts=("test",)).test.images
    except DataError as error:
        if data_dir is not None:
            raise
        generated = draw("test", count)[0].transpose(0, 2, 3, 1)
        return Sample(resize(generated, size), f"{count} generated images", str(error))
    places = np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
    return Sample(resize(found[places], size), f"{len(places)} test images of {for_others(run.data.name, '')['name']}")


def own_data(run: Run, data_dir: str | Path | None = None, parts: tuple[str, ...] = ("train", "test")) -> Data:
    """The data of the run, of which `parts` are what it recorded.

    Nothing is downloaded. Raises DataError where they are not on this machine, or others.
    """
    declared, name = declared_again(run, data_dir=data_dir), run.data.name
    if not is_on_disk(declared):
        raise DataError(f"{name} is not on this machine; cifar-hapi data fetch {name} downloads it")
    found = open_data(declared, run.recipe.seed)
    for part in parts:
        if getattr(found, part).sha256() != run.data.parts[part].sha256:
            words = {"train": "training", "test": "test"}[part]
            raise DataError(f"{name}: not the {words} images that run {run.path} recorded")
    return found
