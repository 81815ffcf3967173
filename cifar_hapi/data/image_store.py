"""The pixels of an image folder, decoded once into a file that is mapped instead of read.

DIR/<name>.json            which images are in it, and which could not be read; written last
    <name>-<key>.npy       uint8 [N, S, S, 3], a row for each image, zeros for those
    <name>.lock

name: of the folder and the size of its images. key: the beginning of a digest over the images' names, sizes and times,
by which a store is told that no longer fits.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
import PIL
from filelock import FileLock
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from cifar_hapi.data.decoding import Decoded, decoded_rows
from cifar_hapi.data.pixels import MappedImages
from cifar_hapi.errors import DataError
from cifar_hapi.printable import escaped
from cifar_hapi.regular_file import read_regular

_MOST_INDEX = 2**26  # bytes; a million numbers of unreadable images take eight million
_KEY = 16  # digits of the digest in a file's name


@checked_dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class _Index:
    format: Literal[1]
    digest: str
    unreadable: list[Annotated[int, Field(ge=0)]]


@dataclass(frozen=True)
class ImageStore:
    """A store of the images at `paths` below `root`, brought to `image_size`, in the folder `place`."""

    place: Path
    root: Path
    paths: Sequence[Path]
    image_size: int

    def opened(self, progress: bool = False) -> Decoded:
        """The images, mapped; decoded into the store first unless it is there, whole and of these very images.

        Processes that want the same store wait for the one that writes it. A damaged one is made anew, with a warning.
        progress: whether a line on standard error says that images are decoded.
        Raises DataError where the store cannot be written or read.
        """
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            with FileLock(self.place / f"{self._name}.lock"):
                found = self._read()
                if found is None:
                    if progress:
                        print(f"decoding {len(self.paths):,} images into {self.place}", file=sys.stderr, flush=True)
                    self._write()
                    found = self._read()
        except OSError as error:
            raise DataError(
                f"{self.place}: images cannot be stored: {error.strerror or error}; "
                f"{'make room, or ' if error.errno == errno.ENOSPC else ''}name another folder by data.store"
            ) from None
        if found is None:
            raise DataError(f"{self.root}: images were changed as they were decoded; try again when they are still")
        return found

    @property
    def _name(self) -> str:
        whose = f"{self.root.resolve()}\0{self.image_size}".encode(errors="surrogateescape")
        return hashlib.sha256(whose).hexdigest()[:_KEY]

    @property
    def _index(self) -> Path:
        return self.place / f"{self._name}.json"

    def _pixels(self, digest: str) -> Path:
        return self.place / f"{self._name}-{digest[:_KEY]}.npy"

    def _shape(self) -> tuple[int, ...]:
        return (len(self.paths), self.image_size, self.image_size, 3)

    def _digest(self) -> str:
        """Over what decides the pixels: which files, as they are now, the size, and who decodes them."""
        digest = hashlib.sha256(f"1 {self.image_size} {PIL.__version__}".encode())
        for path in self.paths:
            name = str(path.relative_to(self.root)).encode(errors="surrogateescape")
            digest.update(b"%d %b %b\0" % (len(name), name, _state(path)))
        return digest.hexdigest()

    def _read(self) -> Decoded | None:
        """None where there is no store of these images; one that is damaged is warned of."""
        if not self._index.exists():
            return None
        try:
            index = self._checked_index()
            if index.digest != self._digest():  # images came, went or were changed
                return None
            readable = _readable(index, len(self.paths))
            mapped = _mapped(self._pixels(index.digest), self._shape())
        except (DataError, OSError, ValueError, RecursionError) as error:
            reason = escaped(str(getattr(error, "strerror", None) or error))
            warnings.warn(f"{self._index}: damaged, so the images are decoded anew: {reason}", stacklevel=2)
            return None
        return Decoded(MappedImages(mapped, np.arange(len(self.paths))), readable)

    def _checked_index(self) -> _Index:
        data = read_regular(self._index, _MOST_INDEX, DataError, "no index of a store")
        try:
            index: _Index = TypeAdapter(_Index).validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = "".join(f"{each}: " for each in first["loc"])
            raise ValueError(f"{where}{first['msg'].lower()}") from None
        return index

    def _write(self) -> None:
        """Write pixels and then index; what is left of a killed writer, or of other images, is removed."""
        digest = self._digest()
        for old in (*self.place.glob(f".{self._name}-*"), *self.place.glob(f"{self._name}-*.npy")):
            old.unlink()
        with _put_in_place(self._pixels(digest)) as file:
            unreadable = _write_pixels(file, self.paths, self.image_size)
        about = {"format": 1, "digest": digest, "unreadable": unreadable}
        with _put_in_place(self._index) as file:
            file.write(json.dumps(about).encode())


def _state(path: Path) -> bytes:
    """Size and time of a file; nothing of one that cannot be looked at."""
    try:
        about = path.stat()
    except OSError:
        return b"-"
    return b"%d %d" % (about.st_size, about.st_mtime_ns)


def _readable(index: _Index, count: int) -> np.ndarray:
    """Which of `count` images could be read, bool [count]. Raises ValueError where others are named."""
    if any(place >= count for place in index.unreadable):
        raise ValueError(f"unreadable: names an image beyond the {count} that there are")
    readable = np.ones(count, bool)
    readable[index.unreadable] = False
    return readable


def _mapped(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The array in an .npy file, mapped read-only. Raises ValueError unless it is uint8 of that shape, and whole."""
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{file.name} is no file")
        expected = _header(shape)
        if stream.read(len(expected)) != expected or about.st_size != len(expected) + math.prod(shape):
            raise ValueError(f"{file.name} is not whole, or of other images")
        return np.memmap(stream, np.uint8, mode="r", offset=len(expected), shape=shape)


def _header(shape: tuple[int, ...]) -> bytes:
    """The beginning of an .npy file of uint8 [*shape], version 1.0, so that it is compared instead of parsed."""
    about = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    padded = about.ljust(-(-(len(about) + 11) // 64) * 64 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()


def _write_pixels(file: BinaryIO, paths: Sequence[Path], image_size: int) -> list[int]:
    """Which of the images could not be read.

    Written and not mapped: on a full disk a write is an error, and a mapping the end of the process.
    """
    unreadable = []
    file.write(_header((len(paths), image_size, image_size, 3)))
    nothing = bytes(image_size * image_size * 3)
    for place, pixels in enumerate(decoded_rows(paths, image_size)):
        file.write(nothing if pixels is None else pixels.tobytes())
        if pixels is None:
            unreadable.append(place)
    return unreadable


@contextmanager
def _put_in_place(target: Path) -> Iterator[BinaryIO]:
    """A new file beside `target`, which gets its name when it is whole and on the disk."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem.partition('-')[0]}-")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
