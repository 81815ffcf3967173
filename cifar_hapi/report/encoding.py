"""Figures as JSON in which each array stands once, however many traces have it: most share their x."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np


class Arrays:
    """Takes arrays out of figures; `stored` are those taken, in the form of plotly.js, for drawing.js to put back."""

    def __init__(self) -> None:
        self.stored: list[Any] = []
        self._places: dict[tuple[bytes, tuple[int, ...]], int] = {}

    def encoded(self, value: Any) -> Any:
        """A figure, or a part of one, in which each array is {"array": where it is in `stored`}."""
        if isinstance(value, np.ndarray):
            return {"array": self._place(value)}
        if isinstance(value, dict):
            return {key: self.encoded(each) for key, each in value.items()}
        return [self.encoded(each) for each in value] if isinstance(value, list) else value

    def _place(self, array: np.ndarray) -> int:
        """Numbers are float32, and NaN where they are infinite, which has no place in a picture."""
        numbers = np.where(np.isfinite(array), array, np.nan).astype("<f4")
        key = (numbers.tobytes(), numbers.shape)
        if key not in self._places:
            self._places[key] = len(self.stored)
            shape = {"shape": ", ".join(map(str, numbers.shape))} if numbers.ndim > 1 else {}
            self.stored.append({"dtype": "f4", "bdata": base64.b64encode(numbers.tobytes()).decode(), **shape})
        return self._places[key]
