"""The official CIFAR-10 and CIFAR-100 "python version", read from the archive or the folder in it."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import DataError
from . import archive_format
from .image_set import ImageSet

CifarName = Literal["cifar10", "cifar100"]


@dataclass(frozen=True)
class Layout:
    """Where an archive keeps what."""

    title: str
    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels_key: bytes
    names_key: bytes
    num_classes: int

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)


LAYOUTS: dict[CifarName, Layout] = {
    "cifar10": Layout(
        title="CIFAR-10",
        archive="cifar-10-python.tar.gz",
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        meta="batches.meta",
        labels_key=b"labels",
        names_key=b"label_names",
        num_classes=10,
    ),
    "cifar100": Layout(
        title="CIFAR-100",
        archive="cifar-100-python.tar.gz",
        folder="cifar-100-python",
        train=("train",),
        test="test",
        meta="meta",
        labels_key=b"fine_labels",
        names_key=b"fine_label_names",
        num_classes=100,
    ),
}

# The largest official file is 155 MB and the largest archive unpacks to 186 MB: the limits bound a hostile one.
MAX_FILE_BYTES = 256 * 2**20
MAX_ARCHIVE_BYTES = 512 * 2**20


def read_cifar(path: Path, name: CifarName) -> tuple[ImageSet, ImageSet]:
    """The training and the test set of CIFAR-10 or CIFAR-100 (fine labels).

    path: the `.tar.gz`, which is read in memory and never extracted; the folder in it; or a folder that holds
    either. A batch may have any number of images. Nothing in the files is trusted: no code of theirs is run.
    Raises DataError, naming the file, when one is missing, damaged or not what it should be.
    """
    layout = LAYOUTS[name]
    found = find_cifar(path, name)
    if found is None:
        raise DataError(
            f"{path}: no {layout.title} here: expected {layout.archive}, the folder {layout.folder}, or a folder "
            "that holds one of them"
        )
    contents = dict(_read_folder(found, layout) if found.is_dir() else _read_archive(found, layout))
    for file in layout.files:
        if file not in contents:
            raise DataError(f"{found}: {file} is missing from {layout.title}; fetch the archive again")
    class_names = _class_names(contents[layout.meta], f"{found}: {layout.meta}", layout)
    batches = {file: _batch(contents[file], f"{found}: {file}", layout) for file in (*layout.train, layout.test)}
    train = _image_set([batches[file] for file in layout.train], class_names)
    return train, _image_set([batches[layout.test]], class_names)


def find_cifar(folder: Path, name: CifarName) -> Path | None:
    """The extracted folder or the archive of that name in `folder`, or `folder` itself when it is one; else None.

    A folder counts when it has any of the files, so that an incomplete one is found and can be complained about.
    A path that is a file counts as an archive.
    """
    layout = LAYOUTS[name]
    for candidate in (folder / layout.folder, folder):
        if any((candidate / file).is_file() for file in layout.files):
            return candidate
    return next((path for path in (folder / layout.archive, folder) if path.is_file()), None)


def _read_folder(folder: Path, layout: Layout) -> Iterator[tuple[str, dict[bytes, Any]]]:
    for path in (folder / file for file in layout.files):
        if path.is_file():
            _check_size(path.stat().st_size, MAX_FILE_BYTES, str(path))
            try:
                pickled = path.read_bytes()
            except OSError as error:
                raise DataError(f"{path}: can't be read ({error.strerror})") from error
            yield path.name, archive_format.loads(pickled, str(path))


def _read_archive(path: Path, layout: Layout) -> Iterator[tuple[str, dict[bytes, Any]]]:
    try:
        for member, pickled in _tar_members(path, {f"{layout.folder}/{file}" for file in layout.files}):
            yield member.rpartition("/")[2], archive_format.loads(pickled, f"{path}: {member}")
    except (OSError, tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(f"{path}: can't be read as a .tar.gz archive ({error}); fetch it again") from error


def _tar_members(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """The wanted members' names and contents, in archive order.

    Headers are taken one by one: TarFile would follow extended headers, whose sizes and chains are the archive's.
    """
    block = tarfile.BLOCKSIZE
    with gzip.open(path) as stream:
        while any(header := stream.read(block)):  # a block of zeros ends the archive
            member = tarfile.TarInfo.frombuf(header, "ascii", "backslashreplace")
            where = f"{path}: {member.name!r}"
            padded_size = -(-member.size // block) * block
            _check_size(member.size, MAX_FILE_BYTES, where)
            _check_size(stream.tell() + padded_size, MAX_ARCHIVE_BYTES, str(path))
            if member.name not in wanted:
                stream.seek(padded_size, 1)
                continue
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise DataError(f"{where} is no regular file, as it is in the official archive; fetch it again")
            contents = stream.read(padded_size)
            if len(contents) < padded_size:
                raise DataError(f"{where} is truncated; fetch the archive again")
            yield member.name, contents[: member.size]
        stream.seek(MAX_ARCHIVE_BYTES)  # to the end, where gzip compares the checksum


def _check_size(size: int, limit: int, where: str) -> None:
    if not 0 <= size <= limit:
        raise DataError(f"{where} has {size} bytes, expected at most {limit}; fetch the archive again")


def _class_names(meta: dict[bytes, Any], where: str, layout: Layout) -> tuple[str, ...]:
    names = _get(meta, layout.names_key, list, where)
    if not all(isinstance(name, bytes) and name.isascii() and name.decode().isprintable() for name in names):
        raise DataError(f"{where}: a class name is no printable ASCII string; fetch the archive again")
    if len(set(names)) != layout.num_classes or len(names) != layout.num_classes:
        raise DataError(f"{where}: {len(set(names))} class names, expected {layout.num_classes} different ones")
    return tuple(name.decode() for name in names)


def _batch(content: dict[bytes, Any], where: str, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The rows, uint8 [n, 3072], and labels, int64 [n], of one file."""
    rows = _get(content, b"data", np.ndarray, where)
    labels = _get(content, layout.labels_key, list, where)
    if len(rows) == 0 or rows.shape[1] != 3 * 32 * 32:
        raise DataError(f"{where}: data has shape {rows.shape}, expected (images, 3072); fetch the archive again")
    if len(labels) != len(rows):
        raise DataError(f"{where}: {len(labels)} labels for {len(rows)} images; fetch the archive again")
    if not all(type(label) is int and 0 <= label < layout.num_classes for label in labels):
        raise DataError(f"{where}: a label is no number from 0 to {layout.num_classes - 1}; fetch the archive again")
    return rows, np.array(labels, np.int64)


def _get(content: dict[bytes, Any], key: bytes, kind: type, where: str) -> Any:
    value = content.get(key)
    if not isinstance(value, kind):
        problem = "is missing" if key not in content else f"is no {kind.__name__}"
        raise DataError(f"{where}: {key.decode()} {problem}; is this the official python version of the archive?")
    return value


def _image_set(batches: list[tuple[np.ndarray, np.ndarray]], class_names: tuple[str, ...]) -> ImageSet:
    labels = np.concatenate([labels for _, labels in batches])
    images = np.empty((len(labels), 32, 32, 3), np.uint8)
    start = 0
    for rows, _ in batches:
        for channel, plane in enumerate(np.split(rows, 3, axis=1)):  # three times as fast as one transposition
            images[start : start + len(rows), :, :, channel] = plane.reshape(-1, 32, 32)
        start += len(rows)
    return ImageSet(images, labels, class_names)
