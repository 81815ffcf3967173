"""A folder of class folders of images, read into memory as a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifar_hapi.data.decoding import FORMATS, Undecodable, decode_image, pillow_warnings
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.errors import DataError, RecipeError

EXTENSIONS = frozenset(extension for extensions in FORMATS.values() for extension in extensions)


@dataclass(frozen=True, eq=False)
class FolderData:
    """The two splits of an image folder, with the same class names, and the files that could not be read."""

    train: ImageSet
    test: ImageSet
    unreadable: tuple[Path, ...]


def read_image_folder(folder: Path, image_size: int = 32, test_fraction: float = 0.2, seed: int = 0) -> FolderData:
    """Read `folder/<class>/<image>` or `folder/{train,test}/<class>/<image>`; classes are numbered by name.

    Only images directly in a class folder count. Hidden files and folders and other kinds of files are
    skipped, and so is whatever lies beside `train` and `test`, or beside the class folders. Images are as
    `read_image` gives them.

    Without `train` and `test` folders, a share of `test_fraction` of each class, drawn by `seed`, is for
    testing: at least one image, and never all; a class of one image is for training alone. The split depends
    on the file names, not on the order in which the file system lists them.

    Unreadable images are left out and named in the result. Raises DataError where there are no classes, where
    a class has no readable image, and where a test class is not a training class; RecipeError for a
    `test_fraction` outside (0, 1).
    """
    if not 0 < test_fraction < 1:
        raise RecipeError(f"test_fraction is {test_fraction}; it must lie between 0 and 1")
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        train, unreadable = _read_classes(folder / "train", image_size)
        test, also_unreadable = _read_classes(folder / "test", image_size, train.class_names)
        return FolderData(train, test, unreadable + also_unreadable)
    images, unreadable = _read_classes(folder, image_size)
    is_test = _draw_test(images.labels, test_fraction, seed)
    if not is_test.any():
        raise DataError(f"{folder}: every class has one image, so none is left for testing; add images")
    return FolderData(images.take(np.flatnonzero(~is_test)), images.take(np.flatnonzero(is_test)), unreadable)


def read_image(path: Path, image_size: int) -> np.ndarray:
    """The image as uint8 [image_size, image_size, 3], RGB, upright as its EXIF orientation says.

    See `decode_image`. Raises DataError for files that are missing, damaged, of no known format, or larger than
    Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    try:
        with pillow_warnings():
            return decode_image(path, image_size)
    except Undecodable as error:
        raise DataError(f"{path}: {error}; repair or remove the file") from error


def list_images(folder: Path) -> list[Path]:
    """The image files directly in `folder`, by extension and sorted by name, without hidden ones.

    A link that leads nowhere is listed, so that it is missed rather than overlooked. Raises DataError where
    the folder cannot be listed.
    """
    return [path for path in _list(folder) if path.suffix.lower() in EXTENSIONS and _is_file_or_dead_link(path)]


def _read_classes(
    folder: Path, image_size: int, class_names: tuple[str, ...] | None = None
) -> tuple[ImageSet, tuple[Path, ...]]:
    """All readable images of the class folders in `folder`, by class and name, and the unreadable files."""
    classes = [path for path in _list(folder) if path.is_dir()]
    if not classes:
        raise DataError(f"{folder}: holds no class folders; expected {folder}/<class>/<image files>")
    class_names = class_names or tuple(path.name for path in classes)
    unknown = sorted({path.name for path in classes} - set(class_names))
    if unknown:
        raise DataError(
            f"{folder}: no training images for {', '.join(unknown)}; the classes are {', '.join(class_names)}"
        )
    images: list[np.ndarray] = []
    labels: list[int] = []
    unreadable: list[Path] = []
    for path in classes:
        readable, damaged = _read_class(path, image_size)
        images += readable
        labels += [class_names.index(path.name)] * len(readable)
        unreadable += damaged
    return ImageSet(np.stack(images), np.array(labels, np.int64), class_names), tuple(unreadable)


def _read_class(folder: Path, image_size: int) -> tuple[list[np.ndarray], list[Path]]:
    paths = list_images(folder)
    if not paths:
        raise DataError(f"{folder}: holds no image files, so the class is empty; add images or remove the folder")
    images: list[np.ndarray] = []
    unreadable: dict[Path, DataError] = {}
    for path in paths:  # no threads: with two, 32x32 PNG files took 2.6 times as long
        try:
            images.append(read_image(path, image_size))
        except DataError as error:
            unreadable[path] = error
    if not images:
        raise DataError(f"{folder}: none of its {len(paths)} images can be read; the first: {unreadable[paths[0]]}")
    return images, list(unreadable)


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
