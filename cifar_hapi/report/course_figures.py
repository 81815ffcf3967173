"""Pictures of the course of trainings: what history.jsonl holds, of one run or of several together."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cifar_hapi.report.figure import Figure, Trace, axis, figure, line, spread
from cifar_hapi.report.palette import Mark, mark

_MOST_MOMENTS = 2000  # epochs that are drawn
_FEW = 40  # up to so many moments each has a marker
_NAME = 32


@dataclass(frozen=True)
class Against:
    """What a course is drawn against: the key that chooses it, and its name in words."""

    key: str
    title: str


AGAINST = (Against("epoch", "epoch"), Against("step", "training step"), Against("seconds", "seconds of training"))


@dataclass(frozen=True)
class Measure:
    """What is drawn: its keys in a record, with what to call each, and its name in words."""

    key: str
    title: str
    lines: tuple[tuple[str, str], ...]


MEASURES = (
    Measure("loss", "loss", (("loss", "training"), ("eval_loss", "validation"))),
    Measure("accuracy", "accuracy", (("acc", "training"), ("eval_acc", "validation"))),
    Measure("rate", "learning rate", (("lr", ""),)),
    Measure("speed", "images a second", (("images_per_second", ""),)),
)


@dataclass(frozen=True, eq=False)
class RunCourse:
    """The history of a run under the name that it has on the page: one record an epoch."""

    name: str
    history: Sequence[dict[str, Any]]

    def column(self, key: str) -> np.ndarray:
        """float64 [T], NaN where a record has no such number."""
        return np.array([_number(record.get(key)) for record in self.history], np.float64)

    def against(self, key: str) -> np.ndarray:
        return np.nancumsum(self.column("seconds")) if key == "seconds" else self.column(key)


def measures_of(courses: Sequence[RunCourse]) -> list[Measure]:
    """Those that some run has recorded."""
    known = {key for course in courses for record in course.history for key in record}
    return [measure for measure in MEASURES if known & {key for key, _ in measure.lines}]


def course_figure(courses: Sequence[RunCourse], measure: Measure, against: Against) -> Figure:
    """One measure of all runs. One run has a mark for each of its lines, several have one each, training dotted."""
    data: list[Trace] = []
    for place, course in enumerate(courses):
        for number, (key, kind) in enumerate(measure.lines):
            values = course.column(key)
            if np.isfinite(values).any():
                alone = len(courses) == 1
                look = mark(1 - number if len(measure.lines) > 1 else 0) if alone else mark(place)
                dotted = len(measure.lines) > 1 and number == 0
                data.append(_line(course, values, kind, look, dotted, alone, against))
    upwards = axis(measure.title, **_form(measure))
    top = 30 + 22 * -(-len(data) // 2)  # for the legend
    return figure(data, 310 + top, top=top, xaxis=axis(against.title), yaxis=upwards, showlegend=True)


def on_legend(name: str) -> str:
    """A run's name, its end if it is long, in which plotly finds no tags."""
    return html.escape(name if len(name) <= _NAME else f"…{name[1 - _NAME :]}", quote=False)


def _line(
    course: RunCourse, values: np.ndarray, kind: str, look: Mark, dotted: bool, alone: bool, against: Against
) -> Trace:
    there = np.flatnonzero(np.isfinite(values))
    chosen = there[spread(len(there), _MOST_MOMENTS)]
    name = " ".join(filter(None, ("" if alone else on_legend(course.name), kind))) or on_legend(course.name)
    symbol = f"{look.symbol}-open" if dotted else look.symbol
    drawn: dict[str, Any] = {
        "mode": "lines+markers" if len(chosen) <= _FEW else "lines",
        "marker": {"symbol": symbol, "size": 7, "color": look.colour},
        "hovertemplate": f"{against.title} %{{x:,.6~g}}: %{{y:.4~g}}",
    }
    return line(course.against(against.key)[chosen], values[chosen], name, look.colour, _dash(look, dotted), **drawn)


def _dash(look: Mark, dotted: bool) -> str:
    return "dot" if dotted else look.dash


def _form(measure: Measure) -> dict[str, Any]:
    if measure.key == "accuracy":
        return {"tickformat": ".0%", "hoverformat": ".2%"}
    return {"rangemode": "tozero"} if measure.key in ("rate", "speed") else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
