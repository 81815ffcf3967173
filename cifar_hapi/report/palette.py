"""How runs are told apart in a picture: by colour, by dashes and by markers, so that any one of these is enough.

The colours are those of Okabe & Ito 2008, the blue lighter, for dark pages.
"""

from __future__ import annotations

from dataclasses import dataclass

from cifar_hapi.report.figure import BLUE, ORANGE


@dataclass(frozen=True)
class Mark:
    """In plotly's words."""

    colour: str
    dash: str
    symbol: str


_MARKS = (
    Mark(BLUE, "solid", "circle"),
    Mark(ORANGE, "dash", "square"),
    Mark("#009E73", "dashdot", "diamond"),
    Mark("#D55E00", "longdash", "triangle-up"),
    Mark("#CC79A7", "longdashdot", "cross"),
    Mark("#56B4E9", "solid", "x"),
)


def mark(place: int) -> Mark:
    """That of the run at `place`; after six they begin again."""
    return _MARKS[place % len(_MARKS)]
