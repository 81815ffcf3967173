"""Figures in plotly's own form, dictionaries: a page has thousands of lines, and plotly's classes take 5 ms for each.

That they are what plotly knows is tested. Colours are told apart by everyone and in black and white: maps go from dark
to light by cividis (Nuñez et al. 2018); lines are blue and orange as in Okabe & Ito 2008, the blue lighter, for dark
pages, and differ in their dashes.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

Figure = dict[str, Any]  # data: a list of traces; layout
Trace = dict[str, Any]

BLUE, ORANGE, GREY = "#2B83C6", "#E69F00", "#888888"
MAP = "Cividis"
_NAME = 24  # characters of a layer's name on an axis
_MOST_NAMES = 50
_HALF_A_PHONE = 16  # characters that have room beside the mark of a legend's entry


def figure(data: list[Trace], height: int, top: int = 50, **layout: Any) -> Figure:
    """Traces, and a layout with its legend above; `height` and `top`, the margin there, in pixels."""
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    margin = {"l": 50, "r": 20, "t": top, "b": 45}  # on the right for half of the last tick's text
    return {"data": data, "layout": {"height": height, "margin": margin, "legend": legend, **layout}}


def legend_height(names: Sequence[str]) -> int:
    """Pixels that a legend of these names takes above a figure, below the row of buttons, on a phone."""
    rows = -(-len(names) // 2) if max(map(len, names), default=0) <= _HALF_A_PHONE else len(names)
    return 34 + 20 * rows


def line(x: Any, y: Any, name: str, colour: str, dash: str = "solid", width: float = 2, **more: Any) -> Trace:
    drawn = {"mode": "lines", "line": {"color": colour, "dash": dash, "width": width}}
    return {"type": "scatter", "x": x, "y": y, "name": name, **drawn, **more}


def band(x: np.ndarray, low: np.ndarray, high: np.ndarray, name: str, colour: str, strength: float) -> Trace:
    """What lies between two lines, each [T]."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return {
        "type": "scatter",
        "x": np.concatenate([x, x[::-1]]),
        "y": np.concatenate([low, high[::-1]]),
        "name": name,
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},{strength})",
        "hoverinfo": "skip",
    }


def dots(x: Any, y: Any, symbol: str = "circle", colour: str = BLUE, size: int = 7, **more: Any) -> Trace:
    marker = {"symbol": symbol, "color": colour, "size": size, "line": {"color": colour, "width": 1}}
    return {"type": "scatter", "x": x, "y": y, "mode": "markers", "marker": marker, "showlegend": False, **more}


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, **more}


def layer_axis(names: Sequence[str]) -> dict[str, Any]:
    """Layers by their places, with their names at the ticks, or at some of them where there are many."""
    places = list(range(0, len(names), max(1, -(-len(names) // _MOST_NAMES))))
    shown = [on_axis(names[place]) for place in places]
    return {"tickmode": "array", "tickvals": places, "ticktext": shown, "tickfont": {"size": 10}}


def on_axis(name: str) -> str:
    """A layer's name, its end if it is long, in which plotly finds no tags; a network that is one norm has none."""
    shown = name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"
    return html.escape(shown, quote=False) or "batch norm"


def axis_type(log: bool, values: np.ndarray) -> str:
    """Logarithmic if it is wanted and all that is finite is above 0."""
    finite = values[np.isfinite(values)]
    return "log" if log and len(finite) and finite.min() > 0 else "linear"


def spread(count: int, most: int) -> np.ndarray:
    """`most` places among `count`, or all: the first, the last and others evenly between; int64, ascending."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))
