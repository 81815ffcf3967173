"""Files that others made, read whole, and never more of them than they may have."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class NotRegular(ValueError):
    """A pipe, a device, a folder."""


class TooLarge(ValueError):
    """More bytes than a file of its kind may have."""


def read_bounded(file: Path, most: int) -> bytes:
    """The contents of `file`; a pipe or a device is not waited for, and a folder is none.

    Raises OSError where it cannot be read, ValueError for a name with a zero byte, and, naming it, NotRegular for what
    is no file and TooLarge for what is larger than `most` bytes.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(file, flags), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise NotRegular(f"{file}: is no file")
        data = stream.read(most + 1)
    if len(data) > most:
        raise TooLarge(f"{file}: is larger than {most:,} bytes")
    return data
