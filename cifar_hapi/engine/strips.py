"""Narrow feature maps side by side, several images in a strip, as a convolution's gradient of weights wants them.

With AMX, oneDNN adds up 32 pixels of a row at a time: of a row of seven, three quarters of that is for nothing.
"""

from __future__ import annotations

from cifar_hapi.engine.onednn import Desc, multiplies_tiles
from cifar_hapi.engine.primitives import Geometry

_WIDEST_MAP, _WIDEST_STRIP = 8, 72  # pixels; of wider maps the copies cost more than is gained


class Strips:
    """`count` images of a channels-last map [N, C, H, W] side by side, each with `padding` empty columns to its right.

    desc: of the strips, [N / count, C, H, count * (W + padding)]. images, places: of the map, and of where its images
    come to lie in the strips, both as [N / count, count, C, H, W].
    """

    def __init__(self, image: Desc, padding: int, count: int):
        n, channels, height, width = image.shape
        slot = width + padding
        self.desc = Desc((n // count, channels, height, count * slot), image.dtype)
        shape = n // count, count, channels, height, width
        row, padded_row = width * channels, slot * channels
        apart = count * height * row, height * row, 1, row, channels
        padded_apart = count * height * padded_row, padded_row, 1, count * padded_row, channels
        self.images = Desc.strided(shape, apart, image.dtype)
        self.places = Desc.strided(shape, padded_apart, image.dtype)


def images_in_a_strip(x: Desc, y: Desc, geometry: Geometry) -> int:
    """How many images of a convolution of `x` to `y` to lay side by side; 1 where it cannot be, or does not pay."""
    n, *_, width = x.shape
    pays = multiplies_tiles() and x.dtype == "bfloat16" and width <= _WIDEST_MAP
    if not pays or not _may_be_in_strips(x, y, geometry):
        return 1
    most = _WIDEST_STRIP // (width + geometry.before[1])
    return max(count for count in range(1, most + 1) if n % count == 0)


def _may_be_in_strips(x: Desc, y: Desc, geometry: Geometry) -> bool:
    """Whether the padding between two images does for both: the kernel moves by one, and keeps the width."""
    alike = {x.tag, y.tag} == {"nhwc"} and x.shape[3] == y.shape[3] and geometry.before[1] == geometry.after[1]
    return alike and geometry.stride[1] == 1 and geometry.groups == 1
