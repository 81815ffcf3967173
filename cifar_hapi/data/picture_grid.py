"""Images of a data set side by side in a PNG file, each with its class below."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cifar_hapi.data.examples import Examples
from cifar_hapi.errors import RecipeError

_SIDE = 96  # pixels that an image is brought to, in whole multiples of its own
_MARGIN, _WORDS = 8, 20
_COLUMNS = 10
_FONT_SIZE = 12


def write_grid(examples: Examples, path: Path) -> Path:
    """Write the grid to `path`, and give it back. Raises RecipeError where that is no name of a PNG file."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise RecipeError(f"{path}: is not the name of a PNG file; call it something.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn_grid(examples).save(path, "PNG", optimize=True)
    return path


def drawn_grid(examples: Examples) -> Image.Image:
    """Ten columns, or as many as there are classes if these are fewer, so that a column is a class."""
    images = examples.images
    columns = min(len(images), len(images.class_names), _COLUMNS)
    side = images.images.shape[1] * max(1, _SIDE // images.images.shape[1])
    across, down = side + _MARGIN, side + _MARGIN + _WORDS
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * across + _MARGIN, rows * down + _MARGIN), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_SIZE)
    for place, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        left, top = _MARGIN + place % columns * across, _MARGIN + place // columns * down
        canvas.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (left, top))
        words = _fitting(images.class_names[label], side, pen, font)
        pen.text((left + side / 2, top + side + 3), words, fill="black", font=font, anchor="ma")
    return canvas


def _fitting(
    name: str, width: int, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """As much of the name as there is room for, in one line."""
    name = "".join(char if char.isprintable() else "?" for char in name)
    if pen.textlength(name, font) <= width:
        return name
    return next(short for end in range(len(name), -1, -1) if pen.textlength(short := f"{name[:end]}…", font) <= width)
