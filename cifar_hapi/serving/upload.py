"""An image that a stranger sent: looked at before it is decoded, then decoded as `predict` decodes a file.

Pillow's decoders take time and memory by the size that an image claims, which its header tells, and some by other
things that no photograph has: those are refused here.
"""

from __future__ import annotations

import io
import struct

import numpy as np

from cifar_hapi.data.picture_file import TooManyPixels, Undecodable, UnknownFormat, decode_image
from cifar_hapi.serving.refusal import Refusal

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_MOST_SCANS = 64  # of a progressive JPEG; each goes over all pixels. cjpeg writes 10
_MOST_GIF_TEXT = 65_536  # bytes before a GIF's first frame; Pillow's time for comments grows by their square


def decode_upload(content: bytes, side: int, most_pixels: int) -> np.ndarray:
    """uint8 [side, side, 3], RGB, as `data.decoding.decode_image` says.

    Raises Refusal: 400 for nothing at all, 415 for another format, 413 for more pixels than `most_pixels`, and 422
    for an image that is damaged or made to take long.
    """
    if not content:
        raise Refusal(400, "is empty: no image was sent")
    try:
        _check(content, most_pixels)
        return decode_image(io.BytesIO(content), side, FORMATS, most_pixels)
    except UnknownFormat as error:
        raise Refusal(415, str(error)) from error
    except TooManyPixels as error:
        raise Refusal(413, str(error)) from error
    except Undecodable as error:
        raise Refusal(422, str(error)) from error


def _check(content: bytes, most_pixels: int) -> None:
    """Raise what `decode_image` does, for what costs too much before Pillow says how large an image is, or after."""
    if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > _MOST_SCANS:
        raise Undecodable(f"is a JPEG of more than {_MOST_SCANS} scans; save it anew")
    if content.startswith(b"GIF8") and _gif_text(content) > _MOST_GIF_TEXT:
        raise Undecodable(f"is a GIF with more than {_MOST_GIF_TEXT:,} bytes of text; save it anew")
    if content.startswith(b"BM") and content[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
        raise Undecodable("is a run-length encoded BMP; save it anew, as PNG")  # decoded by a loop in Python
    if content[8:12] == b"WEBP":
        width, height = _webp_size(content)
        if width * height > most_pixels:  # libwebp takes memory for a canvas before Pillow tells its size
            raise TooManyPixels(f"has {width:,} x {height:,} pixels; at most {most_pixels:,} are allowed")


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height, by the first chunk; (0, 0) for what is no WebP."""
    kind, head = content[12:16], content[20:30]
    if len(head) < 10:
        return 0, 0
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _gif_text(content: bytes) -> int:
    """How many bytes of extensions there are before the first frame."""
    flags = content[10] if len(content) > 10 else 0
    start = place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while content[place : place + 1] == b"!":
        place += 2
        while place < len(content) and content[place]:
            place += 1 + content[place]
        place += 1
    return place - start
