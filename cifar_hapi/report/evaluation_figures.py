"""Pictures of evaluations: the classes, what they are taken for, and whether probabilities can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cifar_hapi.metrics import interval
from cifar_hapi.recorded_evaluation import RecordedEvaluation
from cifar_hapi.report.course_figures import on_legend
from cifar_hapi.report.figure import BLUE, GREY, MAP, Figure, Trace, axis, figure, legend_height, line, on_axis
from cifar_hapi.report.palette import mark

MOST_CLASSES = 100
_WITH_NUMBERS = 20  # classes up to which a matrix has numbers in its cells
_LIGHT = 0.5  # where cividis is as far from black as from white
_SHARES = (0, 0.05, 0.2, 0.5, 1)  # at the ticks of its colours


@dataclass(frozen=True, eq=False)
class NamedEvaluation:
    """An evaluation under the name that its run has on the page."""

    name: str
    evaluation: RecordedEvaluation


def drawn_classes(evaluation: RecordedEvaluation) -> np.ndarray:
    """Places of the classes that are drawn, ascending: all, or of more than 100 those with the most mistakes."""
    confusion = np.array(evaluation.confusion)
    wrong = confusion.sum(axis=1) - confusion.diagonal()
    return np.sort(np.argsort(-wrong, kind="stable")[:MOST_CLASSES])


def class_bars(evaluation: RecordedEvaluation) -> Figure:
    """The accuracy of each class, with the 95 % interval that so few images leave; the worst on top."""
    drawn, accuracy, counts = _classes(evaluation)
    order = np.argsort(-accuracy, kind="stable")  # plotly draws upwards
    ends = np.array([interval(share, max(int(count), 1)) for share, count in zip(accuracy, counts, strict=True)])[order]
    shown = accuracy[order]
    names = [list(evaluation.per_class)[place] for place in drawn[order]]
    bars: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": shown,
        "y": np.arange(len(shown)),
        "marker": {"color": BLUE},
        "error_x": {
            "type": "data",
            "array": ends[:, 1] - shown,
            "arrayminus": shown - ends[:, 0],
            "color": GREY,
            "thickness": 1.5,
        },
        "text": [f"{share:.1%}" for share in shown],
        "textposition": "inside",
        "insidetextanchor": "start",
        "textangle": 0,
        "customdata": np.stack([counts[order], ends[:, 0], ends[:, 1]], axis=1),
        "hovertemplate": "%{y}: %{x:.1%} of %{customdata[0]} images"
        "<br>95 % interval %{customdata[1]:.1%} to %{customdata[2]:.1%}<extra></extra>",
    }
    sideways = axis("accuracy", tickformat=".0%", range=[0, 1.02])
    return figure([bars], _rows(len(shown)), top=34, xaxis=sideways, yaxis=_class_axis(names))


def class_dots(evaluations: Sequence[NamedEvaluation]) -> Figure:
    """The accuracy of each class in all runs, each with its mark."""
    drawn, accuracy, _ = _classes(evaluations[0].evaluation)
    order = np.argsort(-accuracy, kind="stable")
    names = [list(evaluations[0].evaluation.per_class)[place] for place in drawn[order]]
    data = []
    for place, each in enumerate(evaluations):
        look, shares = mark(place), each.evaluation.per_class
        values = np.array([shares.get(name, np.nan) for name in names])
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": values,
                "y": np.arange(len(names)),
                "name": on_legend(each.name),
                "marker": {"symbol": look.symbol, "color": look.colour, "size": 9},
                "hovertemplate": "%{y}: %{x:.1%}",
            }
        )
    sideways = axis("accuracy", tickformat=".0%")
    height, top = _rows(len(names)), legend_height([on_legend(each.name) for each in evaluations])
    return figure(data, height + top, top=top, xaxis=sideways, yaxis=_class_axis(names), showlegend=True)


def confusion_map(evaluation: RecordedEvaluation) -> Figure:
    """What each class is taken for; colours go by the square root of the share, so that rare mistakes are seen."""
    drawn = drawn_classes(evaluation)
    confusion = np.array(evaluation.confusion)
    shares = (confusion / confusion.sum(axis=1, keepdims=True).clip(min=1))[np.ix_(drawn, drawn)]
    counts = confusion[np.ix_(drawn, drawn)].tolist()
    names = [list(evaluation.per_class)[place] for place in drawn]
    ticks = {
        "tickmode": "array",
        "tickvals": np.sqrt(_SHARES).tolist(),
        "ticktext": [f"{each:.0%}" for each in _SHARES],
    }
    bar = {"orientation": "h", "y": 1, "yanchor": "bottom", "thickness": 10, "len": 1}
    cells: Trace = {
        "type": "heatmap",
        "x": np.arange(len(drawn)),
        "y": np.arange(len(drawn)),
        "z": np.sqrt(shares),
        "zmin": 0,
        "zmax": 1,
        "hovertext": [
            [f"{count} ({share:.1%})" for count, share in zip(*rows, strict=True)]
            for rows in zip(counts, shares.tolist(), strict=True)
        ],
        "colorscale": MAP,
        "colorbar": {**bar, **ticks},
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{y} taken for %{x}: %{hovertext}<extra></extra>",
    }
    numbers = [_numbers(np.array(counts), np.sqrt(shares))] if len(drawn) <= _WITH_NUMBERS else []
    sideways = {**_class_axis(names), **axis("taken for"), "tickangle": -60}
    upwards = {**_class_axis(names), **axis("class"), "autorange": "reversed"}
    height = 150 + max(300, min(900, 34 * len(drawn)))
    return figure([cells, *numbers], height, top=60, xaxis=sideways, yaxis=upwards)


def _numbers(counts: np.ndarray, shades: np.ndarray) -> Trace:
    """What is in the cells, but for zeros; white on dark and black on light: plotly's own greys are hard to read."""
    rows, columns = np.nonzero(counts)
    font = {"size": 10, "color": ["black" if light else "white" for light in shades[rows, columns] > _LIGHT]}
    words = [str(count) for count in counts[rows, columns]]
    where: Trace = {"x": columns, "y": rows, "text": words, "textposition": "middle center", "textfont": font}
    return {"type": "scatter", "mode": "text", "hoverinfo": "skip", "showlegend": False, **where}


def reliability(evaluations: Sequence[NamedEvaluation]) -> Figure:
    """How often predictions are right against how probable they were said to be, and how many there are of each."""
    data: list[Trace] = [line([0, 1], [0, 1], "", GREY, "dot", hoverinfo="skip", showlegend=False)]
    several = len(evaluations) > 1
    for place, each in enumerate(evaluations):
        bins = [every for every in each.evaluation.calibration.bins if every.count]
        where = np.array([every.confidence for every in bins], np.float64)
        right = np.array([every.accuracy for every in bins], np.float64)
        counts = np.array([every.count for every in bins])
        look, name = mark(place), on_legend(each.name)
        told = "said %{x:.1%}, right %{y:.1%}<br>%{customdata} images"
        marker = {"symbol": look.symbol, "color": look.colour, "size": 8}
        drawn: dict[str, Any] = {"mode": "lines+markers", "marker": marker, "customdata": counts, "hovertemplate": told}
        group: dict[str, Any] = {"legendgroup": str(place)}
        data.append(line(where, right, name, look.colour, look.dash, showlegend=several, **drawn, **group))
        data.append(_shares_of_images(each.evaluation, look.colour, name, several) | group)
    sideways = axis("probability of the predicted class", tickformat=".0%", range=[0, 1], anchor="y2")
    upwards = axis("share that is right", tickformat=".0%", range=[0, 1.03], domain=[0.3, 1])
    below = axis("images", tickformat=".0%", domain=[0, 0.22], nticks=4)
    top = legend_height([on_legend(each.name) for each in evaluations]) if several else 20
    return figure(data, 440, top=top, xaxis=sideways, yaxis=upwards, yaxis2=below, bargap=0.05, barmode="group")


def _shares_of_images(evaluation: RecordedEvaluation, colour: str, name: str, several: bool) -> Trace:
    """The share of the images in each bin: bars, or of several runs steps, which do not hide each other."""
    bins = evaluation.calibration.bins
    shares = np.array([each.count for each in bins]) / max(1, sum(each.count for each in bins))
    centres = np.array([(each.low + each.high) / 2 for each in bins])
    counts = np.array([each.count for each in bins])
    shown: Trace = {"x": centres, "y": shares, "yaxis": "y2", "name": name, "showlegend": False, "customdata": counts}
    shown["hovertemplate"] = "around %{x:.0%}: %{customdata} images<extra></extra>"
    if several:
        return shown | {"type": "scatter", "mode": "lines", "line": {"color": colour, "shape": "hvh"}}
    return shown | {"type": "bar", "marker": {"color": colour}}


def _classes(evaluation: RecordedEvaluation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which are drawn, with the accuracy and the number of images of each."""
    drawn = drawn_classes(evaluation)
    accuracy = np.array(list(evaluation.per_class.values()), np.float64)
    return drawn, accuracy[drawn], np.array(evaluation.confusion).sum(axis=1)[drawn]


def _rows(count: int) -> int:
    return 94 + 26 * count if count <= 2 * _WITH_NUMBERS else 94 + 16 * count


def _class_axis(names: Sequence[str]) -> dict[str, Any]:
    """Every class at its place."""
    ticks = list(range(len(names)))
    return {"tickmode": "array", "tickvals": ticks, "ticktext": [on_axis(name) for name in names]}
