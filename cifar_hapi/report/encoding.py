"""Figures as JSON in which each array stands once, however many traces have it: most share their x."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np


class Arrays:
    """Takes arrays out of figures; `stored` are those taken, in the form of plotly.js, for drawing.js to put back."""

    def __init__(self) -> None:
        self.stored: list[Any] = []
        self._places: dict[tuple[str, bytes, tuple[int, ...]], int] = {}

    def encoded(self, figure: Any) -> dict[str, Any]:
        """A figure of plotly without the defaults of its template; each array is {"array": where it is in `stored`}."""
        content = figure.to_plotly_json()
        content["layout"].pop("template", None)
        return {key: self._without_arrays(content[key]) for key in ("data", "layout")}

    def _without_arrays(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {"array": self._place(value)} if value.dtype.kind in "iuf" else value.tolist()
        if isinstance(value, dict):
            return {key: self._without_arrays(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._without_arrays(each) for each in value]
        return value

    def _place(self, array: np.ndarray) -> int:
        """Numbers are float32, and NaN where they are infinite, which has no place in a picture."""
        numbers = np.where(np.isfinite(array), array, np.nan).astype("<f4")
        key = ("f4", numbers.tobytes(), numbers.shape)
        if key not in self._places:
            self._places[key] = len(self.stored)
            shape = {"shape": ", ".join(map(str, numbers.shape))} if numbers.ndim > 1 else {}
            self.stored.append({"dtype": "f4", "bdata": base64.b64encode(numbers.tobytes()).decode(), **shape})
        return self._places[key]
