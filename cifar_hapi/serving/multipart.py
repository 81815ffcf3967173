"""The files of a multipart/form-data body (RFC 7578) that is in memory.

Each byte is looked at by `bytes.split` and its like, so that no body takes long, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))(?:;|\s|$)', re.IGNORECASE)
_FILE_NAME = re.compile(rb';\s*filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_DISPOSITION = re.compile(rb"content-disposition\s*:\s*form-data\s*(;.*)?", re.IGNORECASE)
_MOST_HEADER = 4096  # bytes of the header of a part
_ESCAPES = {b"%22": b'"', b"%0D": b"\r", b"%0A": b"\n"}  # those of browsers, in the names of files


@dataclass(frozen=True)
class Part:
    """A file as it was sent. name: what it is called, "" if nothing."""

    name: str
    content: bytes


class BrokenMultipart(ValueError):
    """Why a body is no multipart/form-data."""


class TooManyParts(ValueError):
    """There are more than are allowed."""


def boundary_of(content_type: str) -> bytes:
    """The boundary that the header names. Raises BrokenMultipart for one that names none."""
    found = _BOUNDARY.search(content_type)
    if found is None or not content_type.isascii():
        raise BrokenMultipart("its content type names no boundary")
    return (found[1] or found[2]).encode()


def parts_of(body: bytes, boundary: bytes, most: int) -> list[Part]:
    """All parts, in their order. Raises BrokenMultipart for a body that is none, TooManyParts for more than `most`."""
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, most + 2)
    if len(pieces) == 1:
        raise BrokenMultipart("the boundary that its content type names is not in it")
    if len(pieces) > most + 2:  # what is before the first, and what is after the last
        raise TooManyParts
    return list(_parts(pieces[1:]))


def _parts(pieces: list[bytes]) -> Iterator[Part]:
    """What lies between boundaries."""
    for piece in pieces:
        if piece.startswith(b"--"):
            return
        padding, end, rest = piece.partition(b"\r\n")
        if padding.strip(b" \t"):
            raise BrokenMultipart("a boundary in it does not end its line")
        if not end:
            break
        yield _part(rest)
    raise BrokenMultipart("it ends before its last boundary")


def _part(text: bytes) -> Part:
    header, blank, content = text.partition(b"\r\n\r\n")
    if not blank:
        raise BrokenMultipart("a part of it has no end of its header")
    if len(header) > _MOST_HEADER:
        raise BrokenMultipart(f"the header of a part of it has more than {_MOST_HEADER:,} bytes")
    found = next(filter(None, (_DISPOSITION.fullmatch(line.strip()) for line in header.split(b"\r\n"))), None)
    if found is None:
        raise BrokenMultipart("a part of it has no content disposition of form-data")
    return Part(_file_name(found[1] or b""), content)


def _file_name(parameters: bytes) -> str:
    found = _FILE_NAME.search(parameters)
    name = found[1] if found else b""
    for escape, meant in _ESCAPES.items():
        name = name.replace(escape, meant)
    return re.sub(rb"\\(.)", rb"\1", name).decode("utf-8", "replace")
