"""Images of strangers: read as files are, or refused with a reason, whatever they are."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from asked_server import encoded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cifar_hapi.data.folder import read_image
from cifar_hapi.serving.refusal import Refusal
from cifar_hapi.serving.upload import decode_upload

MOST = 1_000_000
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
FILES = {
    "png": encoded(PHOTO),
    "png with alpha": encoded(Image.fromarray(PHOTO).convert("RGBA")),
    "png of 16 bits": encoded(Image.fromarray(PHOTO[..., 0].astype("uint16") * 257)),
    "jpeg": encoded(PHOTO, "JPEG"),
    "progressive jpeg": encoded(PHOTO, "JPEG", progressive=True),
    "cmyk jpeg": encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
    "webp": encoded(PHOTO, "WEBP"),
    "lossless webp": encoded(PHOTO, "WEBP", lossless=True),
    "animated webp": encoded(
        Image.fromarray(PHOTO), "WEBP", save_all=True, append_images=[Image.fromarray(255 - PHOTO)], lossless=True
    ),
    "gif": encoded(PHOTO, "GIF"),
    "animated gif": encoded(Image.fromarray(PHOTO), "GIF", save_all=True, append_images=[Image.fromarray(255 - PHOTO)]),
    "bmp": encoded(PHOTO, "BMP"),
}


@pytest.mark.parametrize("kind", FILES)
def test_it_is_read_as_a_file_is(kind, tmp_path):
    (tmp_path / "file").write_bytes(FILES[kind])
    np.testing.assert_array_equal(decode_upload(FILES[kind], 32, MOST), read_image(tmp_path / "file", 32))


def refused(content, most=MOST):
    with pytest.raises(Refusal) as found:
        decode_upload(content, 32, most)
    assert "\n" not in found.value.sentence
    return found.value.status, found.value.sentence


@pytest.mark.parametrize("kind", FILES)
def test_the_pixels_of_every_format_are_counted(kind):
    assert decode_upload(FILES[kind], 32, 2400).shape == (32, 32, 3)
    assert refused(FILES[kind], 2399) == (413, "has 60 x 40 pixels; at most 2,399 are allowed")


@pytest.mark.parametrize("format", ["TIFF", "PPM", "JPEG2000", "TGA", "EPS", "PDF", "ICO"])
def test_other_formats_are_refused(format):
    assert refused(encoded(PHOTO, format)) == (415, "not an image of a known format (PNG, JPEG, WEBP, GIF, BMP)")


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, data=b""):
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def webp_of(width, height):
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + sizes
    animation = b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk + animation)) + b"WEBP" + chunk + animation


def gif_of(width, height, text=0):
    comment = b"!\xfe" + text * (b"\xff" + 255 * b"x") + b"\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x4c\1\0;"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + 6 * b"x" + comment + frame


def bmp_of(width, height, compression=0):
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 2000, 0, 0, 54 + 1024) + head + bytes(1024)


@pytest.mark.parametrize("bomb", [png_of, webp_of, gif_of, bmp_of])
def test_a_bomb_is_told_by_its_header(bomb):
    sentence = "has 16,000 x 2,000 pixels; at most 20,000,000 are allowed"
    assert refused(bomb(16_000, 2_000), most=20_000_000) == (413, sentence)
    status, sentence = refused(bomb(16_000, 16_000), most=20_000_000)
    assert status == 413 and ("has more than 20,000,000 pixels" in sentence or "has 16,000 x 16,000" in sentence)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (FILES["progressive jpeg"] + 60 * b"\xff\xda", "more than 64 scans"),
        (gif_of(1, 1, text=300), "more than 65,536 bytes of text"),
        (bmp_of(60, 40, compression=1), "run-length encoded BMP"),
        (png_of(60, 40, zlib.compress(b"short")), "truncated"),
        (FILES["jpeg"][:400], "cannot be read as an image"),
    ],
)
def test_what_is_damaged_or_made_to_take_long_is_refused(content, reason):
    status, sentence = refused(content)
    assert status == 422 and reason in sentence


def test_a_gif_with_some_text_is_read():
    assert decode_upload(gif_of(1, 1, text=10), 32, MOST).shape == (32, 32, 3)


@st.composite
def damaged(draw):
    """A file of ours, cut, and with bytes that are others."""
    content = bytearray(draw(st.sampled_from(list(FILES.values()))))
    content = content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content
    for _ in range(draw(st.integers(0, 8)) if content else 0):
        near = draw(st.booleans())  # the header, where most of what can go wrong is told
        content[draw(st.integers(0, min(len(content), 64 if near else len(content)) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(damaged(), st.binary(max_size=100), st.binary(max_size=60).map(lambda data: FILES["gif"][:13] + data)))
def test_whatever_is_sent_is_pixels_or_a_refusal(content):
    try:
        found = decode_upload(content, 32, MOST)
    except Refusal as refusal:
        assert refusal.status in (400, 413, 415, 422) and refusal.sentence and "\n" not in refusal.sentence
    else:
        assert found.shape == (32, 32, 3) and found.dtype == np.uint8
