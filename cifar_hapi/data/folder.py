"""A folder of class folders of images, read as a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifar_hapi.data.decoding import Decoded, decode
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.picture_file import EXTENSIONS, read_image
from cifar_hapi.errors import DataError, RecipeError
from cifar_hapi.printable import is_fit_to_print


@dataclass(frozen=True, eq=False)
class FolderData:
    """The two splits of an image folder, with the same class names, and the files that could not be read."""

    train: ImageSet
    test: ImageSet
    unreadable: tuple[Path, ...]


Decode = Callable[[Sequence[Path], int], Decoded]


def read_image_folder(
    folder: Path, image_size: int = 32, test_fraction: float = 0.2, seed: int = 0, decode: Decode = decode
) -> FolderData:
    """Read `folder/<class>/<image>` or `folder/{train,test}/<class>/<image>`; classes are numbered by name.

    Only images directly in a class folder count. Hidden files and folders and other kinds of files are
    skipped, and so is whatever lies beside `train` and `test`, or beside the class folders. Images are as
    `read_image` gives them. decode: what reads the files, all at once; by default into memory.

    Without `train` and `test` folders, a share of `test_fraction` of each class, drawn by `seed`, is for
    testing: at least one image, and never all; a class of one image is for training alone. The split depends
    on the file names, not on the order in which the file system lists them.

    Unreadable images are left out and named in the result. Raises DataError where there are fewer than two
    classes, where a class has no readable image, and where a test class is not a training class;
    RecipeError for a `test_fraction` outside (0, 1).
    """
    if not 0 < test_fraction < 1:
        raise RecipeError(f"test_fraction is {test_fraction}; it must lie between 0 and 1")
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        train = _listed(folder / "train")
        test = _listed(folder / "test", train.class_names)
        both = Listing(train.paths + test.paths, np.concatenate([train.labels, test.labels]), train.class_names)
        images, readable = _decoded(both, image_size, decode)
        for part, of_it in ((train, readable[: len(train.paths)]), (test, readable[len(train.paths) :])):
            _check_classes(part, of_it, image_size)
        is_test = np.arange(len(both.paths)) >= len(train.paths)
    else:
        both = _listed(folder)
        images, readable = _decoded(both, image_size, decode)
        _check_classes(both, readable, image_size)
        is_test = np.zeros(len(both.paths), bool)
        is_test[readable] = _draw_test(both.labels[readable], test_fraction, seed)
        if not is_test.any():
            raise DataError(f"{folder}: every class has one image, so none is left for testing; add images")
    unreadable = tuple(both.paths[place] for place in np.flatnonzero(~readable))
    return FolderData(
        images.take(np.flatnonzero(readable & ~is_test)), images.take(np.flatnonzero(readable & is_test)), unreadable
    )


def list_images(folder: Path) -> list[Path]:
    """The image files directly in `folder`, by extension and sorted by name, without hidden ones.

    A link that leads nowhere is listed, so that it is missed rather than overlooked. Raises DataError where
    the folder cannot be listed.
    """
    return [path for path in _list(folder) if path.suffix.lower() in EXTENSIONS and _is_file_or_dead_link(path)]


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files by class and name; labels: int64 [N]."""

    paths: tuple[Path, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]


def _listed(folder: Path, class_names: tuple[str, ...] | None = None) -> Listing:
    """The image files of the class folders in `folder`."""
    classes = [path for path in _list(folder) if path.is_dir()]
    if not classes:
        raise DataError(f"{folder}: holds no class folders; expected {folder}/<class>/<image files>")
    if unfit := [path for path in classes if not is_fit_to_print(path.name)]:
        raise DataError(f"{unfit[0]}: control characters in the name of a class; rename the folder")
    class_names = class_names or tuple(path.name for path in classes)
    unknown = sorted({path.name for path in classes} - set(class_names))
    if unknown:
        raise DataError(
            f"{folder}: no training images for {', '.join(unknown)}; the classes are {', '.join(class_names)}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for path in classes:
        found = list_images(path)
        if not found:
            raise DataError(f"{path}: holds no image files, so the class is empty; add images or remove the folder")
        paths += found
        labels += [class_names.index(path.name)] * len(found)
    if len(class_names) == 1:
        raise DataError(
            f"{folder}: holds one class folder, {class_names[0]!r}, and there is nothing to tell it from; "
            f"expected {folder}/<class>/<image files> for two classes or more"
        )
    return Listing(tuple(paths), np.array(labels, np.int64), class_names)


def _decoded(listing: Listing, image_size: int, decode: Decode) -> tuple[ImageSet, np.ndarray]:
    """A row for each file, and which of them are images."""
    decoded = decode(listing.paths, image_size)
    return ImageSet(decoded.images, listing.labels, listing.class_names), decoded.readable


def _check_classes(listing: Listing, readable: np.ndarray, image_size: int) -> None:
    """Raise DataError for a class of which no image can be read."""
    for label in np.unique(listing.labels):
        members = np.flatnonzero(listing.labels == label)
        if not readable[members].any():
            first = listing.paths[members[0]]
            raise DataError(
                f"{first.parent}: none of its {len(members)} images can be read; the first: {_why(first, image_size)}"
            )


def _why(path: Path, image_size: int) -> str:
    try:
        read_image(path, image_size)
    except DataError as error:
        return str(error)
    return f"{path}: has been repaired; try again"


def _draw_test(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Boolean [N]: which images are for testing."""
    rng = np.random.default_rng(seed)
    is_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        is_test[members[:count]] = True
    return is_test


def _list(folder: Path) -> list[Path]:
    try:
        visible = (path for path in folder.iterdir() if not path.name.startswith("."))
        return sorted(visible, key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error


def _is_file_or_dead_link(path: Path) -> bool:
    return path.is_file() or (path.is_symlink() and not path.exists())
