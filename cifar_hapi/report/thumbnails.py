"""Images of a data set as small PNG files in data URIs, which a page holds itself."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

LARGEST = 64  # pixels a side; CIFAR's images are as they are


def data_uri(image: np.ndarray, largest: int = LARGEST) -> str:
    """image: uint8 [H, W, 3]; made smaller if a side is above `largest`, by default 64 pixels."""
    picture, file = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((largest, largest))
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
