"""Files that others made, read whole, and never more of them than they may have."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_bounded(file: Path, most: int) -> bytes:
    """The contents of `file`; a pipe or a device is not waited for, and a folder is none.

    Raises OSError where it cannot be read, and ValueError, naming it, for what is no file or larger than `most` bytes.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(file, flags), "rb") as stream:
        about = os.fstat(stream.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{file}: is no file")
        if about.st_size > most:
            raise ValueError(f"{file}: is larger than {most:,} bytes")
        return stream.read(most)
