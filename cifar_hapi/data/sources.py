"""From the declared data to images in memory: where they are looked for, and what they turn out to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cifar_hapi.data.archives import find_cifar, read_cifar
from cifar_hapi.data.decoding import Decoded, decode
from cifar_hapi.data.download import ARCHIVES, fetch
from cifar_hapi.data.folder import Decode, read_image_folder
from cifar_hapi.data.identity import DataIdentity, PartIdentity
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.image_store import ImageStore
from cifar_hapi.data.normalisation import IMAGENET, channel_statistics
from cifar_hapi.data.split import stratified_split
from cifar_hapi.data.synthetic import CLASS_NAMES, TRAIN, write_synthetic
from cifar_hapi.errors import DataError, did_you_mean
from cifar_hapi.printable import escaped, is_fit_to_print
from cifar_hapi.recipe import DataRecipe
from cifar_hapi.runtime import cache_folder, data_folders, missing_data_folder

CifarName = Literal["cifar10", "cifar100"]
_CIFAR_FORMAT = ("cifar10", "cifar100", "synthetic")
# Bytes of pixels of a folder. Twice as many are in use while images are held out, beside the few hundred megabytes that
# Paddle takes: up to here that is no matter on a machine that trains.
MOST_IN_MEMORY = 256 * 2**20


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, ready to be trained on.

    name: "cifar10", "cifar100", "synthetic", or the path of an image folder. source: where it was read from.
    note: what must be said with every result, "" if nothing. val: held out from the training images, else None.
    mean, std: by which images are normalised, per channel, in [0, 1]: of those trained on, or ImageNet's.
    """

    name: str
    source: str
    note: str
    train: ImageSet
    val: ImageSet | None
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def identity(self) -> DataIdentity:
        """What run.json records, so that another run can tell whether it saw the same."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return DataIdentity(
            name=self.name,
            source=self.source,
            note=self.note,
            class_names=self.train.class_names,
            mean=self.mean,
            std=self.std,
            parts={key: PartIdentity(len(part), part.sha256()) for key, part in parts.items() if part is not None},
        )


def stored_size(name: str, image_size: int) -> int:
    """The side in pixels of the images of the set `name` in memory, which loaders bring to a recipe's `image_size`."""
    return 32 if name in _CIFAR_FORMAT else image_size


def is_on_disk(recipe: DataRecipe) -> bool:
    """Whether `open_data` would download nothing; what is generated, or a folder, needs no network."""
    return recipe.source not in ("auto", "cifar10", "cifar100") or _place(recipe) is not None


def open_data(recipe: DataRecipe, seed: int = 0, progress: bool = False) -> Data:
    """Find, and where need be fetch or generate, the data that `recipe` names; `seed` chooses what is held out.

    Raises DataError when it cannot be had or is damaged; nothing but `auto` ever stands in something else.
    """
    name, source, note, train, test = _read(recipe, progress)
    if recipe.limit is not None:
        train = train.take(np.arange(min(recipe.limit, len(train))))
    kept, held_out = stratified_split(train.labels, recipe.val_fraction, seed)
    val = train.take(held_out) if len(held_out) else None
    train = train.take(kept) if val is not None else train
    mean, std = IMAGENET if recipe.normalisation == "imagenet" else channel_statistics(train.images)
    if not all(std):
        raise DataError(
            f"{source}: a colour has the same value in all pixels, so images cannot be normalised by its spread; "
            "leave such images out, or set data.normalisation = imagenet"
        )
    return Data(name, source, note, train, val, test, mean, std)


def _read(recipe: DataRecipe, progress: bool) -> tuple[str, str, str, ImageSet, ImageSet]:
    """Name, place, note, training and test images."""
    if recipe.source not in ("auto", *_CIFAR_FORMAT):
        return _read_folder(Path(recipe.source).expanduser(), recipe, progress)
    if recipe.source == "synthetic":
        return _read_synthetic("These are generated images: no result here is a CIFAR result.")
    if recipe.dir is not None and not Path(recipe.dir).expanduser().exists():
        raise DataError(f"data.dir = {recipe.dir!r}: there is no such folder")
    name = _cifar_name(recipe)
    place = _place(recipe)
    if place is None:
        if problem := missing_data_folder():
            raise DataError(f"{problem}; correct it, or unset it")
        try:
            place = fetch(ARCHIVES[name], cache_folder(), progress=progress)
        except DataError:
            if recipe.source != "auto":
                raise
            return _read_synthetic(
                "CIFAR-10 is not here and can't be downloaded (--data cifar10 says why), so these are generated "
                "images: no result here is a CIFAR result."
            )
    train, test = read_cifar(place, name)
    if train.class_names == CLASS_NAMES:
        raise DataError(f"{place}: holds the generated set, not CIFAR; to train on it, say --data synthetic")
    return name, str(place), "", train, test


def _cifar_name(recipe: DataRecipe) -> CifarName:
    return "cifar100" if recipe.source == "cifar100" else "cifar10"


def _place(recipe: DataRecipe) -> Path | None:
    """Where CIFAR is found; None where it would have to be downloaded."""
    name = _cifar_name(recipe)
    return next((found for folder in data_folders(recipe.dir) if (found := find_cifar(folder, name))), None)


def _read_synthetic(note: str) -> tuple[str, str, str, ImageSet, ImageSet]:
    place = write_synthetic(cache_folder() / f"synthetic-{TRAIN}")  # at once where it is there already
    return "synthetic", str(place), note, *read_cifar(place, "cifar10")


def _read_folder(folder: Path, recipe: DataRecipe, progress: bool) -> tuple[str, str, str, ImageSet, ImageSet]:
    if not folder.is_dir():
        raise DataError(
            f"data source {str(folder)!r} is neither cifar10, cifar100, synthetic, auto, nor a folder of class folders"
            + did_you_mean(folder, ("auto", *_CIFAR_FORMAT))
        )
    for name in ("cifar10", "cifar100"):
        if find_cifar(folder, name) is not None:
            raise DataError(f"{folder}: holds the archive of {name}; say --data {name} --data-dir {folder}")
    if not is_fit_to_print(str(folder.resolve())):
        raise DataError(f"{folder.resolve()}: control characters in the name of the folder; rename it")
    found = read_image_folder(folder, recipe.image_size, decode=_decoder(folder, recipe.store, progress))
    train = found.train.take(np.random.default_rng(0).permutation(len(found.train)))  # not by class: see data.limit
    more = ", ..." if len(found.unreadable) > 3 else ""
    names = ", ".join(escaped(str(path)) for path in found.unreadable[:3]) + more
    count = len(found.unreadable)
    were = "1 unreadable image was" if count == 1 else f"{count:,} unreadable images were"
    note = f"{were} left out: {names}" if count else ""
    return str(folder.resolve()), str(folder.resolve()), note, train, found.test


def _decoder(folder: Path, store: str | None, progress: bool) -> Decode:
    """What reads the files of a folder: into memory, or into a store where one is named or the pixels are many."""
    place = Path(store).expanduser() if store is not None else cache_folder() / "images"

    def decode_or_store(paths: Sequence[Path], image_size: int) -> Decoded:
        if store is None and len(paths) * image_size * image_size * 3 <= MOST_IN_MEMORY:
            return decode(paths, image_size)
        return ImageStore(place, folder, paths, image_size).opened(progress)

    return decode_or_store
