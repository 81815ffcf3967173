"""An image file, or the bytes of one, as pixels."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cifar_hapi.errors import DataError

# What Pillow decodes by itself and knows by its first bytes: no EPS (runs Ghostscript), no TGA (takes all).
FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
EXTENSIONS = frozenset(extension for extensions in FORMATS.values() for extension in extensions)

# What Pillow raises on damaged files: what 540,000 mutated ones raised, and what else its decoders can.
_DAMAGED = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombWarning,
)


class Undecodable(Exception):
    """Why pixels cannot be had, in a few words that follow the name of the image."""


class UnknownFormat(Undecodable):
    """Not one of the formats that are read."""


class TooManyPixels(Undecodable):
    """More than are allowed, which is known before they are decoded."""


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


def decode_image(
    source: Path | BinaryIO,
    image_size: int,
    formats: Iterable[str] = tuple(FORMATS),
    most_pixels: int | None = None,
) -> np.ndarray:
    """The image as uint8 [image_size, image_size, 3], RGB, upright as its EXIF orientation says.

    The shorter side is scaled to `image_size` (bicubic, antialiased) and the centre is cut out. Transparent
    parts are laid over white; of 16-bit grey the upper 8 bits are kept; of an animation the first frame.
    formats: those of `FORMATS` that are read. most_pixels: where Pillow's `Image.MAX_IMAGE_PIXELS` is too many.
    Raises Undecodable for what is missing, damaged, of no such format, or larger than that.
    """
    try:
        with Image.open(source, formats=tuple(formats)) as image:
            _check_pixels(image, most_pixels)
            image.draft("RGB", (2 * image_size, 2 * image_size))  # JPEG: decodes photos 4.6 times as fast
            upright = _to_rgb(ImageOps.exif_transpose(image))
        return np.array(ImageOps.fit(upright, (image_size, image_size), Image.Resampling.BICUBIC))
    except UnidentifiedImageError as error:
        raise UnknownFormat(f"not an image of a known format ({', '.join(formats)})") from error
    except Image.DecompressionBombError as error:
        few = f"cannot be read as an image: {error}" if most_pixels is None else f"has more than {most_pixels:,} pixels"
        raise TooManyPixels(few) from error
    except _DAMAGED as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise Undecodable(f"cannot be read as an image: {reason}") from error


@contextmanager
def pillow_warnings() -> Iterator[None]:
    """Within it Pillow does not warn, and too many pixels are an error; for one thread at a time, as Python has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata, once an image
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _check_pixels(image: Image.Image, most: int | None) -> None:
    width, height = image.size
    if most is not None and width * height > most:
        raise TooManyPixels(f"has {width:,} x {height:,} pixels; at most {most:,} are allowed")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):  # 16 bits, as "I;16" or in 32-bit integers; convert("RGB") would clip at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("pixels of more than 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
