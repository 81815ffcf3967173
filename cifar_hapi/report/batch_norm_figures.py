"""Pictures of batch norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from callbacks.bn_layout import SUMMARY
from cifar_hapi.batch_norm.inspection import InspectedLayer
from cifar_hapi.report.batch_norm_course import Course
from cifar_hapi.report.figure import (
    BLUE,
    GREY,
    MAP,
    ORANGE,
    Figure,
    Trace,
    axis,
    axis_type,
    band,
    dots,
    figure,
    layer_axis,
    line,
    spread,
)

_STEP = "training step"
_MEDIAN = SUMMARY.index("median")
_BINS = 30
_HISTOGRAMS = (("#B08000", "dot"), ("#575C6D", "dash"), ("#7D7C78", "dashdot"), ("#9A8F4E", "longdash"))
_BOXES = 12


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


def heat_map(course: Course, quantity: Quantity) -> Figure:
    """Layers x time; crosses where a number is none."""
    values = np.stack([_in_a_number(course, layer, quantity) for layer in course.records.layers])
    with np.errstate(all="ignore"):
        shown = np.log10(values) if quantity.log else values
    cells = {
        "type": "heatmap",
        "x": course.steps,
        "y": np.arange(len(values)),
        "z": shown,
        "text": [[f"{each:.3g}" for each in row] for row in values.tolist()],
        "colorscale": MAP,
        "colorbar": _colour_bar(quantity, shown),
        "hovertemplate": "%{y}<br>step %{x}: %{text}<extra></extra>",
    }
    layers, moments = np.nonzero(~np.isfinite(shown))
    wrong = "0, below, or no finite number" if quantity.log else "no finite number"
    hover: dict[str, Any] = {"hovertemplate": f"%{{y}}<br>step %{{x}}: {wrong}<extra></extra>"}
    crosses = [dots(course.steps[moments], layers, "x-thin", ORANGE, 8, **hover)] if len(layers) else []
    rows = max(120, min(900, 18 * len(values)))
    upwards = {**layer_axis(course.records.layers), "autorange": "reversed"}
    return figure(
        [cells, *crosses], 110 + rows, top=60, xaxis=axis(_STEP, **_from_the_first(course.steps)), yaxis=upwards
    )


def layer_course(course: Course, layer: str, quantity: Quantity) -> Figure:
    """One layer over time: all channels as bands, and lines of as many as there is room for."""
    summary, values = course.summary(layer, quantity.name), course.every_channel(layer, quantity.name)
    data = _bands(course.steps, summary, BLUE, "")
    if values is not None:
        for channel in course.drawn_channels(layer):
            faint: dict[str, Any] = {"opacity": 0.6, "showlegend": False}
            data.append(line(course.steps, values[:, channel], f"channel {channel}", GREY, width=1, **faint))
    upwards = axis(quantity.title, type=axis_type(quantity.log, summary[:, :5]))
    shapes, texts = _what_is_not_finite(course.steps, summary)
    return figure(data, 380, xaxis=axis(_STEP), yaxis=upwards, shapes=shapes, annotations=texts)


def distributions(course: Course, layer: str, quantity: Quantity) -> Figure:
    """How the channels are distributed: a histogram of each of some epochs, or a box plot where there are summaries."""
    values = course.every_channel(layer, quantity.name)
    return _box_plots(course, layer, quantity) if values is None else _histograms(course, values, quantity)


def running_and_batch(course: Course, layer: str) -> Figure:
    """What a layer normalises by in evaluation, and what its batch, the probe, has, over time."""
    data: list[Trace] = []
    axes: dict[str, Any] = {}
    for number, (name, log) in enumerate((("mean", False), ("variance", True)), start=1):
        running, batch = (course.summary(layer, f"{kind}_{name}") for kind in ("running", "batch"))
        traces = _bands(course.steps, running, BLUE, "running ", whole=False)
        traces += _bands(course.steps, batch, ORANGE, "batch ", whole=False)
        group = {"yaxis": f"y{number}", "showlegend": number == 1}  # one legend for both rows
        data += [{**trace, **group, "legendgroup": trace["name"]} for trace in traces]
        kind = axis_type(log, np.concatenate([running, batch])[:, 1:4])
        domain = [0.54, 1] if number == 1 else [0, 0.46]
        axes[f"yaxis{number}"] = axis(name, type=kind, domain=domain)
    return figure(data, 460, xaxis=axis(_STEP, anchor="y2"), **axes)


def running_and_true(layer: InspectedLayer, channels: int) -> Figure:
    """Each channel's running statistics against those that the images of the diagnosis have, of `channels` at most."""
    if layer.true is None:
        raise ValueError(f"layer {layer.name} was not looked at")
    drawn = spread(layer.channels, channels)
    data: list[Trace] = []
    axes: dict[str, Any] = {}
    pairs = (("mean", layer.true.mean, False), ("variance", layer.true.variance, True))
    for number, (name, true, log) in enumerate(pairs, start=1):
        both = np.stack([true, layer.tensors[f"running_{name}"]])[:, drawn]
        finite = both[np.isfinite(both)]
        ends = [float(finite.min()), float(finite.max())] if len(finite) else [0.0, 1.0]
        where: dict[str, Any] = {"xaxis": f"x{number}", "yaxis": f"y{number}"}
        told = "channel %{customdata}<br>batches %{x:.3g}<br>running %{y:.3g}<extra></extra>"
        data.append(line(ends, ends, "", GREY, "dot", hoverinfo="skip", showlegend=False, **where))
        data.append(dots(*both, customdata=drawn, hovertemplate=told, **where))
        kind, domain = axis_type(log, both), [0, 0.44] if number == 1 else [0.56, 1]
        axes[f"xaxis{number}"] = axis(f"{name} of batches", type=kind, nticks=5, domain=domain, anchor=f"y{number}")
        axes[f"yaxis{number}"] = axis("running" if number == 1 else "", type=kind, nticks=6, anchor=f"x{number}")
    return figure(data, 320, **axes)


def depth_profile(course: Course, layers: Sequence[InspectedLayer]) -> Figure:
    """The variance that layers divide by, from the first to the last: at the begin and at the end, and the true one."""
    names, places = course.records.layers, np.arange(len(course.records.layers))
    kinds = [("running_variance", "running", BLUE)]
    kinds += [("batch_variance", "batch (probe)", ORANGE)] if course.has("batch_variance") else []
    hover: dict[str, Any] = {"hovertemplate": "%{x}: %{y:.3g}"}
    data = []
    for quantity, title, colour in kinds:
        medians = np.stack([course.summary(name, quantity)[:, _MEDIAN] for name in names])
        for moment, dash, symbol in ((0, "dot", "circle-open"), (-1, "solid", "circle"))[-len(course.steps) :]:
            with_dots: dict[str, Any] = {"mode": "lines+markers", "marker": {"symbol": symbol}, **hover}
            name = f"{title}, {_moment(course, moment)}"
            data.append(line(places, _positive(medians[:, moment]), name, colour, dash, **with_dots))
    true = {layer.name: np.median(layer.true.variance) for layer in layers if layer.true is not None}
    if true:
        values = _positive(np.array([true.get(name, np.nan) for name in names]))
        data.append(dots(places, values, "x", GREY, 8, name="of batches (diagnosis)", **hover) | {"showlegend": True})
    sideways = {**layer_axis(names), "tickangle": -60}
    upwards = axis("median variance", type="log")
    return figure(data, 440, top=80, xaxis=sideways, yaxis=upwards, showlegend=True)


def _from_the_first(steps: np.ndarray) -> dict[str, Any]:
    """A map's range in time: plotly would begin with the first cell, half of which is before the first step."""
    if len(steps) < 2:
        return {}
    first, before, last = steps[[0, -2, -1]].tolist()
    return {"range": [first, last + (last - before) / 2]}


def _bands(steps: np.ndarray, summary: np.ndarray, colour: str, kind: str, whole: bool = True) -> list[Trace]:
    """From the smallest to the largest channel (if `whole`), the middle half, and the median; summary: [T, 6]."""
    fine = np.isfinite(summary[:, :5]).all(axis=1)
    there, found = steps[fine], summary[fine]
    low, first, median, third, high = found[:, :5].T
    everything = [band(there, low, high, f"{kind}all channels", colour, 0.15)] if whole else []
    half = band(there, first, third, f"{kind}middle half", colour, 0.3)
    mode = "lines+markers" if len(there) < _BOXES else "lines"
    dash = "dash" if colour == ORANGE else "solid"
    drawn: dict[str, Any] = {"mode": mode, "hovertemplate": "step %{x}: %{y:.4g}"}
    return [*everything, half, line(there, median, f"{kind}median", colour, dash, 2.5, **drawn)]


def _what_is_not_finite(steps: np.ndarray, summary: np.ndarray) -> tuple[list[Trace], list[Trace]]:
    """Lines where some channel is not, and the words for them; both empty where there are none."""
    wrong = steps[~np.isfinite(summary[:, :5]).all(axis=1)].tolist()
    upright = {"type": "line", "y0": 0, "y1": 1, "yref": "paper", "line": {"color": ORANGE, "dash": "dot"}}
    words = {"text": "not finite", "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "top", "showarrow": False}
    return [{**upright, "x0": step, "x1": step} for step in wrong], [{**words, "x": step} for step in wrong[:1]]


def _histograms(course: Course, values: np.ndarray, quantity: Quantity) -> Figure:
    """values: [T, C]. The first and the last moment are shown, those between when they are asked for."""
    chosen = spread(len(values), len(_HISTOGRAMS) + 1)
    finite = [values[moment][np.isfinite(values[moment])] for moment in chosen]
    every = np.concatenate(finite)
    edges = np.histogram_bin_edges(every, min(_BINS, max(8, values.shape[1] // 2))) if len(every) else np.arange(2.0)
    data = []
    for place, (moment, each) in enumerate(zip(chosen.tolist(), finite, strict=True)):
        last = place == len(chosen) - 1
        colour, dash = (BLUE, "solid") if last else _HISTOGRAMS[place]
        more: dict[str, Any] = {"fill": "tozeroy"} if last else {}
        seen = True if last or place == 0 else "legendonly"
        counts = np.repeat(np.histogram(each, edges)[0], 2)
        told: dict[str, Any] = {"visible": seen, "hovertemplate": "%{x:.3g}: %{y} channels"}
        data.append(line(np.repeat(edges, 2)[1:-1], counts, _moment(course, moment), colour, dash, **told, **more))
    upwards = axis("channels", rangemode="tozero")
    return figure(data, 320, xaxis=axis(quantity.title), yaxis=upwards, showlegend=True)


def _box_plots(course: Course, layer: str, quantity: Quantity) -> Figure:
    summary = course.summary(layer, quantity.name)
    fine = np.flatnonzero(np.isfinite(summary[:, :5]).all(axis=1))
    shown = fine[spread(len(fine), _BOXES)] if len(fine) else fine
    quartiles = dict(zip(("lowerfence", "q1", "median", "q3", "upperfence"), summary[shown, :5].T, strict=True))
    moments = [_moment(course, moment) for moment in shown.tolist()]
    boxes = {"type": "box", "x": moments, **quartiles, "line": {"color": BLUE}, "showlegend": False}
    upwards = axis(quantity.title, type=axis_type(quantity.log, summary[shown, :5]))
    return figure([boxes], 320, xaxis=axis(type="category"), yaxis=upwards)


def _in_a_number(course: Course, layer: str, quantity: Quantity) -> np.ndarray:
    """[T], over the channels."""
    summary = course.summary(layer, quantity.name).astype(np.float64)
    if quantity.by == "median":
        return np.asarray(summary[:, _MEDIAN])
    return np.asarray(summary[:, SUMMARY.index("norm")] / np.sqrt(course.records.channels[layer]))


def _colour_bar(quantity: Quantity, shown: np.ndarray) -> dict[str, Any]:
    """Above the map, so that a phone has its width for the map; a logarithmic one has numbers at its ticks."""
    bar: dict[str, Any] = {"orientation": "h", "y": 1, "yanchor": "bottom", "thickness": 10, "len": 1, "nticks": 6}
    finite = shown[np.isfinite(shown)]
    if quantity.log and len(finite):
        ticks = np.unique(np.linspace(finite.min(), finite.max(), 5)).tolist()
        bar |= {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{10**tick:.2g}" for tick in ticks]}
    return bar


def _moment(course: Course, moment: int) -> str:
    if not course.recorded:
        return f"step {course.steps[moment]}"
    return f"epoch {course.epochs[moment]}, step {course.steps[moment]}"


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)
