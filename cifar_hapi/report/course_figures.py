"""Pictures of the course of trainings: what history.jsonl and steps.jsonl hold, of one run or of several together."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cifar_hapi.report.figure import Figure, Trace, axis, figure, legend_height, line, spread
from cifar_hapi.report.palette import Mark, mark

_MOST_MOMENTS = 2000  # epochs, or records within them, that are drawn
_FEW = 40  # up to so many moments each has a marker
_FEW_EPOCHS = 10
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
    """The history of a run under the name that it has on the page: one record an epoch, and those within epochs."""

    name: str
    history: Sequence[dict[str, Any]]
    steps: Sequence[dict[str, Any]] = ()

    def line(self, key: str, against: str) -> tuple[np.ndarray, np.ndarray]:
        """Where, and the values of `key` there: float64 [T] each, NaN where a record has no such number.

        By the records within epochs where they have `key`, behind those of the epochs before them; else by epochs.
        """
        records = self.history
        if any(key in record for record in self.steps):
            begin = _number(self.steps[0].get("step"))
            records = [*(record for record in records if _number(record.get("step")) < begin), *self.steps]
        where = _column(records, against)
        return np.nancumsum(where) if against == "seconds" else where, _column(records, key)


def measures_of(courses: Sequence[RunCourse]) -> list[Measure]:
    """Those that some run has recorded."""
    known = {key for course in courses for record in (*course.history, *course.steps) for key in record}
    return [measure for measure in MEASURES if known & {key for key, _ in measure.lines}]


def course_figure(courses: Sequence[RunCourse], measure: Measure, against: Against) -> Figure:
    """One measure of all runs; training is dotted. The legend of one run has its lines, that of several the runs."""
    alone = len(courses) == 1
    every = [_lines(course, measure, against, None if alone else place) for place, course in enumerate(courses)]
    data = [trace for lines in every for trace in lines]
    named = len(data) if alone else len(courses)
    top = legend_height([trace["name"] for trace in data] if alone else [on_legend(course.name) for course in courses])
    sideways = axis(against.title, **_whole_epochs(courses, against))
    upwards = axis(measure.title, **_form(measure))
    return figure(data, 300 + top, top=top, xaxis=sideways, yaxis=upwards, showlegend=named > 1)


def on_legend(name: str) -> str:
    """A run's name, its end if it is long, in which plotly finds no tags."""
    return html.escape(name if len(name) <= _NAME else f"…{name[1 - _NAME :]}", quote=False)


def _lines(course: RunCourse, measure: Measure, against: Against, place: int | None) -> list[Trace]:
    """Those of one run. place: that of the run among several; None for the only one, whose lines differ in colour."""
    lines = []
    for key, kind in measure.lines:
        where, values = course.line(key, against.key)
        if np.isfinite(values).any():
            dotted = kind == "training"
            look = mark(int(dotted) if place is None else place)
            name = on_legend(course.name) if place is not None else kind or on_legend(course.name)
            lines.append(_line(where, values, name, look, dotted) | _hover(against))
    if place is not None:  # one name on the legend, which hides or shows all lines of the run
        together = {"legendgroup": str(place), "showlegend": False}
        lines = [trace | together for trace in lines[:-1]] + [
            trace | together | {"showlegend": True} for trace in lines[-1:]
        ]
    return lines


def _line(where: np.ndarray, values: np.ndarray, name: str, look: Mark, dotted: bool) -> Trace:
    there = np.flatnonzero(np.isfinite(values) & np.isfinite(where))
    chosen = there[spread(len(there), _MOST_MOMENTS)] if len(there) else there
    drawn: dict[str, Any] = {
        "mode": "lines+markers" if len(chosen) <= _FEW else "lines",
        "marker": {"symbol": f"{look.symbol}-open" if dotted else look.symbol, "size": 7, "color": look.colour},
    }
    return line(where[chosen], values[chosen], name, look.colour, "dot" if dotted else look.dash, **drawn)


def _hover(against: Against) -> Trace:
    return {"hovertemplate": f"{against.title} %{{x:,.6~g}}: %{{y:.4~g}}"}


def _whole_epochs(courses: Sequence[RunCourse], against: Against) -> dict[str, Any]:
    """A tick at each epoch where they are few: else there are some between them."""
    few = against.key == "epoch" and max(len(course.history) for course in courses) <= _FEW_EPOCHS
    return {"dtick": 1} if few else {}


def _form(measure: Measure) -> dict[str, Any]:
    if measure.key == "accuracy":
        return {"tickformat": ".1~%", "hoverformat": ".2%"}
    return {"rangemode": "tozero"} if measure.key in ("rate", "speed") else {}


def _column(records: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([_number(record.get(key)) for record in records], np.float64)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
