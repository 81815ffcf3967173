"""Images in the terminal: a character shows two pixels, one above the other, by its own colour and that behind it."""

from __future__ import annotations

import numpy as np
from PIL import Image
from rich.cells import set_cell_size
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from cifar_hapi.data.examples import Examples
from cifar_hapi.errors import RecipeError

_LARGEST, _SMALLEST = 32, 16  # pixels, and so characters, across
_BESIDE = 4  # images that should have room beside each other
_UPPER_HALF = "▀"


def check_can_show(out: Console) -> None:
    """Raise RecipeError where images cannot be seen: in a pipe or a file, and without colours or such characters."""
    if not out.is_terminal or out.color_system is None or out.options.ascii_only:
        raise RecipeError("there is no terminal with colours to show images in; use --out FILE.png")


def show(out: Console, examples: Examples) -> None:
    """Print the images, as many beside each other as there is room for, each with its class above."""
    images, side = examples.images, _side(out.width, examples.images.images.shape[1])
    beside = max(1, (out.width + 1) // (side + 1))
    for first in range(0, len(images), beside):
        places = range(first, min(first + beside, len(images)))
        names = [images.class_names[images.labels[place]] for place in places]
        out.print(Text(" ".join(set_cell_size(_one_line(name), side) for name in names).rstrip()), soft_wrap=True)
        pictures = [_rows(images.images[place], side) for place in places]
        for row in zip(*pictures, strict=True):
            out.print(Text(" ").join(row), soft_wrap=True)


def _side(width: int, own: int) -> int:
    """How many pixels across an image has: fewer than it has itself where else too few would stand beside another."""
    return max(2, min(width, max(_SMALLEST, min(own, _LARGEST, (width + 1) // _BESIDE - 1))))


def _rows(pixels: np.ndarray, side: int) -> list[Text]:
    """pixels: uint8 [H, H, 3]. One text for two rows of pixels."""
    shown = Image.fromarray(pixels).resize((side, side + side % 2), Image.Resampling.BOX)
    values = np.asarray(shown)
    return [Text.assemble(*map(_cell, upper, lower)) for upper, lower in zip(values[::2], values[1::2], strict=True)]


def _cell(upper: np.ndarray, lower: np.ndarray) -> tuple[str, Style]:
    front, back = (Color.from_rgb(*pixel.tolist()) for pixel in (upper, lower))
    return _UPPER_HALF, Style(color=front, bgcolor=back)


def _one_line(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name)
