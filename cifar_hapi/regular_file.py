"""Files that others made, read whole, and never more of them than they may have.

As callbacks/bounded_file.py, which cannot serve here: to import `callbacks` loads Paddle, and recipes are read without.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cifar_hapi.errors import CifarHapiError


def read_regular(file: Path, most: int, refusal: type[CifarHapiError], too_large: str) -> bytes:
    """The contents of `file`; a pipe or a device is not waited for, and a folder is none.

    Raises `refusal`, naming the file, where it cannot be read or has more than `most` bytes, which means `too_large`.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise refusal(f"{file}: is no file")
            data = stream.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise refusal(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > most:
        raise refusal(f"{file}: is larger than {most} bytes: {too_large}")
    return data
