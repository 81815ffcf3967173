"""Pictures of batch norm, each a figure of plotly; colours are told apart by everyone, and in black and white.

Maps go from dark to light by cividis (Nuñez et al. 2018), lines are blue and orange of Okabe & Ito 2008.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from callbacks.bn_layout import SUMMARY
from cifar_hapi.batch_norm.inspection import InspectedLayer
from cifar_hapi.report.batch_norm_course import Course
from cifar_hapi.report.libraries import require

_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#888888"
_PALE = {_BLUE: "rgba(0,114,178,0.15)", _ORANGE: "rgba(230,159,0,0.18)"}
_MIDDLE = {_BLUE: "rgba(0,114,178,0.3)", _ORANGE: "rgba(230,159,0,0.35)"}
_MAP = "Cividis"
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_NAME = 24  # characters of a layer's name on an axis
_BINS = 30
_EPOCHS_SHOWN = 5


@dataclass(frozen=True)
class Quantity:
    """A tensor of a layer, its name in words, by which number over the channels a map shows it, and on which axis."""

    name: str
    title: str
    by: str
    log: bool = False


QUANTITIES = (
    Quantity("running_mean", "running mean", "root mean square"),
    Quantity("running_variance", "running variance", "median", log=True),
    Quantity("scale", "scale (gamma)", "median"),
    Quantity("shift", "shift (beta)", "root mean square"),
)


def heat_map(course: Course, quantity: Quantity) -> Any:
    """Layers x time; crosses where a number is none."""
    values = np.stack([_in_a_number(course, layer, quantity) for layer in course.records.layers])
    with np.errstate(all="ignore"):
        shown = np.log10(values) if quantity.log else values
    figure = require("plotly.graph_objects").Figure()
    figure.add_heatmap(
        z=shown,
        x=course.steps,
        y=np.arange(len(values)),
        text=[[f"{each:.3g}" for each in row] for row in values.tolist()],
        colorscale=_MAP,
        colorbar=_colour_bar(quantity, shown),
        hovertemplate="%{y}<br>step %{x}: %{text}<extra></extra>",
    )
    layer, moment = np.nonzero(~np.isfinite(shown))
    if len(layer):
        wrong = "0, below, or no finite number" if quantity.log else "no finite number"
        figure.add_scatter(
            x=course.steps[moment],
            y=layer,
            mode="markers",
            marker={"symbol": "x-thin", "size": 8, "line": {"width": 2, "color": _ORANGE}},
            hovertemplate=f"%{{y}}<br>step %{{x}}: {wrong}<extra></extra>",
            showlegend=False,
        )
    figure.update_xaxes(title_text="training step")
    figure.update_yaxes(**_layer_axis(course.records.layers), autorange="reversed")
    figure.update_layout(height=140 + max(120, min(900, 18 * len(values))), margin=_margin(top=70))
    return figure


def layer_course(course: Course, layer: str, quantity: Quantity) -> Any:
    """One layer over time: all channels as bands, and lines of as many as there is room for."""
    summary, values = course.summary(layer, quantity.name), course.every_channel(layer, quantity.name)
    figure = require("plotly.graph_objects").Figure()
    _add_bands(figure, course.steps, summary, _BLUE, "")
    for channel in course.drawn_channels(layer) if values is not None else []:
        figure.add_scatter(
            x=course.steps,
            y=values[:, channel],
            name=f"channel {channel}",
            mode="lines",
            line={"width": 1, "color": _GREY},
            opacity=0.5,
            showlegend=False,
        )
    _mark_what_is_not_finite(figure, course.steps, summary)
    figure.update_xaxes(title_text="training step")
    figure.update_yaxes(title_text=quantity.title, type=_axis_type(quantity.log, summary[:, :5]))
    figure.update_layout(height=380, margin=_margin(), legend=_legend())
    return figure


def distributions(course: Course, layer: str, quantity: Quantity) -> Any:
    """How the channels are distributed: a histogram of each of some epochs, or a box plot where there are summaries."""
    values = course.every_channel(layer, quantity.name)
    if values is None:
        return _box_plots(course, layer, quantity)
    chosen = np.unique(np.linspace(0, len(values) - 1, _EPOCHS_SHOWN).round().astype(int))
    finite = [values[moment][np.isfinite(values[moment])] for moment in chosen]
    every = np.concatenate(finite)
    figure = require("plotly.graph_objects").Figure()
    edges = np.histogram_bin_edges(every, _BINS) if len(every) else np.array([0.0, 1.0])
    for place, (moment, each) in enumerate(zip(chosen, finite, strict=True)):
        figure.add_scatter(
            x=np.repeat(edges, 2)[1:-1],
            y=np.repeat(np.histogram(each, edges)[0], 2),
            name=_moment(course, moment),
            mode="lines",
            line={"dash": _DASHES[place], "color": _cividis(place, len(chosen)), "width": 2},
            fill="tozeroy" if place == len(chosen) - 1 else "none",
            visible=True if place in (0, len(chosen) - 1) else "legendonly",
            hovertemplate="%{x:.3g}: %{y} channels",
        )
    figure.update_xaxes(title_text=quantity.title)
    figure.update_yaxes(title_text="channels", rangemode="tozero")
    figure.update_layout(height=320, margin=_margin(), legend=_legend(), showlegend=True)
    return figure


def running_and_batch(course: Course, layer: str) -> Any:
    """What a layer normalises by in evaluation, and what its batch, the probe, has, over time."""
    titles = ("mean", "variance")
    figure = require("plotly.subplots").make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.08)
    for row, (name, log) in enumerate(zip(titles, (False, True), strict=True), start=1):
        both = []
        for kind, colour in (("running", _BLUE), ("batch", _ORANGE)):
            both.append(course.summary(layer, f"{kind}_{name}"))
            _add_bands(figure, course.steps, both[-1], colour, f"{kind} ", row=row, whole=False)
        figure.update_yaxes(title_text=name, type=_axis_type(log, np.concatenate(both)[:, 1:4]), row=row, col=1)
    figure.update_xaxes(title_text="training step", row=2, col=1)
    figure.update_layout(height=460, margin=_margin(), legend=_legend())
    return figure


def running_and_true(layer: InspectedLayer, channels: int) -> Any:
    """Each channel's running statistics against those that the images of the diagnosis have."""
    if layer.true is None:
        raise ValueError(f"layer {layer.name} was not looked at")
    figure = require("plotly.subplots").make_subplots(1, 2, subplot_titles=("mean", "variance"))
    pairs = (
        (layer.true.mean, layer.tensors["running_mean"], False),
        (layer.true.variance, layer.tensors["running_variance"], True),
    )
    drawn = np.unique(np.linspace(0, layer.channels - 1, min(channels, layer.channels)).round().astype(int))
    for column, (true, running, log) in enumerate(pairs, start=1):
        both = np.stack([true, running])[:, drawn]
        kind = _axis_type(log, both)
        finite = both[np.isfinite(both)]
        ends = [finite.min(), finite.max()] if len(finite) else [0, 1]
        figure.add_scatter(
            x=ends, y=ends, mode="lines", line={"color": _GREY, "dash": "dot"}, hoverinfo="skip", row=1, col=column
        )
        figure.add_scatter(
            x=both[0],
            y=both[1],
            customdata=drawn,
            mode="markers",
            marker={"color": _BLUE, "size": 7},
            hovertemplate="channel %{customdata}<br>batches %{x:.3g}<br>running %{y:.3g}<extra></extra>",
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text="of batches", type=kind, nticks=5, row=1, col=column)
        figure.update_yaxes(title_text="running" if column == 1 else "", type=kind, nticks=6, row=1, col=column)
    figure.update_layout(height=340, margin=_margin(), showlegend=False)
    return figure


def depth_profile(course: Course, layers: Sequence[InspectedLayer]) -> Any:
    """The variance that layers divide by, from the first to the last: at the begin and at the end, and the true one."""
    names = course.records.layers
    figure = require("plotly.graph_objects").Figure()
    kinds = [("running_variance", "running", _BLUE)]
    kinds += [("batch_variance", "batch (probe)", _ORANGE)] if course.has("batch_variance") else []
    moments = [(0, "dot", "circle-open"), (-1, "solid", "circle")][-min(2, len(course.steps)) :]
    for quantity, title, colour in kinds:
        medians = np.stack([course.summary(name, quantity)[:, SUMMARY.index("median")] for name in names])
        for moment, dash, symbol in moments:
            figure.add_scatter(
                x=np.arange(len(names)),
                y=_positive(medians[:, moment]),
                name=f"{title}, {_moment(course, moment)}",
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"symbol": symbol},
            )
    true = {layer.name: np.median(layer.true.variance) for layer in layers if layer.true is not None}
    if true:
        figure.add_scatter(
            x=np.arange(len(names)),
            y=_positive(np.array([true.get(name, np.nan) for name in names])),
            name="of batches (diagnosis)",
            mode="markers",
            marker={"symbol": "x", "color": _GREY, "size": 8},
        )
    figure.update_traces(hovertemplate="%{x}: %{y:.3g}")
    figure.update_xaxes(**_layer_axis(names), tickangle=-60)
    figure.update_yaxes(title_text="median variance", type="log")
    figure.update_layout(height=420, margin=_margin(), legend=_legend(), showlegend=True)
    return figure


def _add_bands(
    figure: Any, steps: np.ndarray, summary: np.ndarray, colour: str, kind: str, row: int = 1, whole: bool = True
) -> None:
    """From the smallest to the largest channel (if `whole`), the middle half, and the median; summary: [T, 6]."""
    fine = np.isfinite(summary[:, :5]).all(axis=1)
    there, found = steps[fine], summary[fine]
    where = {"row": row, "col": 1} if not whole else {}
    again = row > 1  # one legend for all rows
    around = np.concatenate([there, there[::-1]])
    bands = [("all channels", 0, 4, _PALE)] * whole + [("middle half", 1, 3, _MIDDLE)]
    for name, low, high, colours in bands:
        figure.add_scatter(
            x=around,
            y=np.concatenate([found[:, low], found[::-1, high]]),
            fill="toself",
            fillcolor=colours[colour],
            line={"width": 0},
            mode="lines",
            name=f"{kind}{name}",
            legendgroup=f"{kind}{name}",
            showlegend=not again,
            hoverinfo="skip",
            **where,
        )
    figure.add_scatter(
        x=there,
        y=found[:, SUMMARY.index("median")],
        line={"color": colour, "width": 2.5, "dash": "solid" if colour == _BLUE else "dash"},
        mode="lines+markers" if len(there) < 12 else "lines",
        name=f"{kind}median",
        legendgroup=f"{kind}median",
        showlegend=not again,
        hovertemplate="step %{x}: %{y:.4g}",
        **where,
    )


def _mark_what_is_not_finite(figure: Any, steps: np.ndarray, summary: np.ndarray) -> None:
    wrong = steps[~np.isfinite(summary[:, :5]).all(axis=1)]
    for step in wrong.tolist():
        figure.add_vline(x=step, line={"dash": "dot", "color": _ORANGE})
    if len(wrong):
        figure.add_annotation(
            x=wrong[0], y=1, yref="paper", xanchor="left", yanchor="top", showarrow=False, text="not finite"
        )


def _box_plots(course: Course, layer: str, quantity: Quantity) -> Any:
    summary = course.summary(layer, quantity.name)
    fine = np.flatnonzero(np.isfinite(summary[:, :5]).all(axis=1))
    shown = fine[np.unique(np.linspace(0, len(fine) - 1, min(12, len(fine))).round().astype(int))] if len(fine) else fine
    found = summary[shown]
    figure = require("plotly.graph_objects").Figure()
    figure.add_box(
        x=[_moment(course, moment) for moment in shown],
        lowerfence=found[:, 0],
        q1=found[:, 1],
        median=found[:, 2],
        q3=found[:, 3],
        upperfence=found[:, 4],
        line={"color": _BLUE},
        showlegend=False,
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(title_text=quantity.title, type=_axis_type(quantity.log, found[:, :5]))
    figure.update_layout(height=320, margin=_margin())
    return figure


def _in_a_number(course: Course, layer: str, quantity: Quantity) -> np.ndarray:
    """[T], over the channels."""
    summary = course.summary(layer, quantity.name).astype(np.float64)
    if quantity.by == "median":
        return summary[:, SUMMARY.index("median")]
    return np.asarray(summary[:, SUMMARY.index("norm")] / np.sqrt(course.records.channels[layer]))


def _colour_bar(quantity: Quantity, shown: np.ndarray) -> dict[str, Any]:
    """Above the map, so that a phone has its width for the map; a logarithmic one has numbers at its ticks."""
    bar: dict[str, Any] = {"orientation": "h", "y": 1, "yanchor": "bottom", "thickness": 10, "len": 1, "nticks": 6}
    bar["title"] = {"text": f"{quantity.title}, {quantity.by} of the channels", "side": "top"}
    finite = shown[np.isfinite(shown)]
    if quantity.log and len(finite):
        ticks = np.unique(np.linspace(finite.min(), finite.max(), 5))
        bar |= {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{10**tick:.2g}" for tick in ticks]}
    return bar


def _layer_axis(names: Sequence[str]) -> dict[str, Any]:
    """Names at the ticks; all of them up to 50, so that they can be read."""
    every = max(1, -(-len(names) // 50))
    places = list(range(0, len(names), every))
    return {"tickmode": "array", "tickvals": places, "ticktext": [on_axis(names[place]) for place in places]}


def on_axis(name: str) -> str:
    """A layer's name, its end if it is long, in which plotly finds no tags; a network that is one norm has none."""
    shown = name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"
    return html.escape(shown, quote=False) or "batch norm"


def _moment(course: Course, moment: int) -> str:
    if not course.recorded:
        return f"step {course.steps[moment]}"
    return f"epoch {course.epochs[moment]}, step {course.steps[moment]}"


def _axis_type(log: bool, values: np.ndarray) -> str:
    """Logarithmic if it is wanted and all that is finite is above 0."""
    finite = values[np.isfinite(values)]
    return "log" if log and len(finite) and finite.min() > 0 else "linear"


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _cividis(place: int, count: int) -> str:
    """One of `count` colours that differ in lightness, the last one blue."""
    if place == count - 1:
        return _BLUE
    return ("#B08000", "#7D7C78", "#9A8F4E", "#575C6D")[place % 4]


def _legend() -> dict[str, Any]:
    return {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


def _margin(top: int = 50) -> dict[str, int]:
    return {"l": 50, "r": 12, "t": top, "b": 45}
