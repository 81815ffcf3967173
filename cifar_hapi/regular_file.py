"""Files that others made, read whole, refused by the error of what they are for."""

from __future__ import annotations

from pathlib import Path

from callbacks.bounded_file import NotRegular, TooLarge, read_bounded
from cifar_hapi.errors import CifarHapiError


def read_regular(file: Path, most: int, refusal: type[CifarHapiError], too_large: str) -> bytes:
    """The contents of `file`; a pipe or a device is not waited for, and a folder is none.

    Raises `refusal`, naming the file, where it cannot be read or has more than `most` bytes, which means `too_large`.
    """
    try:
        return read_bounded(file, most)
    except NotRegular as error:
        raise refusal(str(error)) from None
    except TooLarge:
        raise refusal(f"{file}: is larger than {most} bytes: {too_large}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise refusal(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
