"""The batch norms of a run as a table in the terminal: of each tensor a box plot, as wide as there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from callbacks.bn_layout import TENSORS
from cifar_hapi.batch_norm.inspection import HOW_TO_RECORD, InspectedLayer, Inspection
from cifar_hapi.batch_norm.rules.statistics import severity_of
from cifar_hapi.batch_norm.words import counted
from cifar_hapi.piped import trimmed

_NAME = 28  # characters of a layer's name, at most
_COURSE = 8  # characters of a course in time
_OFF = 5  # characters of a distance
_WIDEST = 24  # characters of a box plot
_ROOMY = 8  # from here on a box plot leaves room for more
_SEVERITY = {None: "", "note": "cyan", "warning": "yellow", "error": "bold red"}
_TITLES = {"running_mean": "mean", "running_variance": "variance", "scale": "scale", "shift": "shift"}


@dataclass(frozen=True)
class _Glyphs:
    whisker: str
    half: str
    median: str
    rising: str
    ellipsis: str


_UNICODE = _Glyphs("─", "━", "┿", "▁▂▃▄▅▆▇█", "…")
_ASCII = _Glyphs("-", "=", "|", "_.-~^", "~")


@dataclass(frozen=True)
class _Axis:
    """From where to where the values of a tensor go in all layers together; `log`: of the logarithms."""

    low: float
    high: float
    log: bool

    def places(self, values: np.ndarray, width: int) -> np.ndarray:
        """Which of `width` characters each is at; on a logarithmic axis 0 and below are at the left end."""
        low, high = self._scaled(np.array([self.low, self.high]))
        share = (self._scaled(values) - low) / max(high - low, 1e-30)
        return np.asarray(np.clip(share * width, 0, width - 1).astype(int))

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(values, self.low)) if self.log else values

    def __str__(self) -> str:
        digits = next((each for each in (2, 4, 6) if f"{self.low:.{each}g}" != f"{self.high:.{each}g}"), 2)
        return f"{self.low:.{digits}g} to {self.high:.{digits}g}" + (" (logarithmic)" if self.log else "")


def show(out: Console, inspection: Inspection) -> None:
    """Print what was inspected: which run, the table, how to read it, the findings."""
    glyphs = _ASCII if out.options.ascii_only else _UNICODE
    axes = {name: axis for name in TENSORS if (axis := _axis(inspection.layers, name)) is not None}
    courses = _has_courses(inspection, axes, out.width)
    with trimmed(out):
        _head(out, inspection)
        out.print(_table(inspection, axes, glyphs, out.width, courses))
        _legend(out, inspection, axes, glyphs, courses)
    if inspection.diagnosis is not None:
        out.print()
        inspection.diagnosis.show(out)


def show_summary(out: Console, inspection: Inspection) -> None:
    """The shortest that can be said."""
    found = inspection.diagnosis
    not_diagnosed = f"{counted(len(inspection.layers), 'batch norm')}, not diagnosed"
    out.print(not_diagnosed if found is None else found.summary, soft_wrap=True)


def _head(out: Console, inspection: Inspection) -> None:
    which = f"{inspection.weights} weights, step {inspection.step}"
    out.print(f"run {inspection.run}: {counted(len(inspection.layers), 'batch norm')}, {which}", soft_wrap=True)
    records = inspection.records
    if inspection.data == "synthetic":
        out.print("trained on generated images")
    if inspection.damage:
        out.print(f"recorded in training, and not readable: {inspection.damage}", soft_wrap=True)
    elif records is None:
        out.print(f"not recorded in training; to record: {HOW_TO_RECORD}", soft_wrap=True)
    else:
        kind = "summaries of the channels" if records.summarised else "each channel"
        out.print(f"recorded {counted(len(records), 'time')}, steps {records.steps[0]} to {records.steps[-1]}: {kind}")
    out.print()


def _has_courses(inspection: Inspection, axes: dict[str, _Axis], width: int) -> bool:
    """Whether there are courses in time, and room for them."""
    room = width - _fixed(inspection, width) - _COURSE - 1
    return inspection.records is not None and len(inspection.records) > 1 and _box(room, axes) >= _ROOMY


def _fixed(inspection: Inspection, width: int) -> int:
    """How wide names and distances are."""
    names = min(max(len(_name(layer)) for layer in inspection.layers), _NAME, width // 3)
    return max(names, len("layer")) + (2 * (_OFF + 1) if inspection.images else 0)


def _table(inspection: Inspection, axes: dict[str, _Axis], glyphs: _Glyphs, width: int, courses: bool) -> Table:
    away = bool(inspection.images)
    box = _box(width - _fixed(inspection, width) - courses * (_COURSE + 1), axes)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    table.add_column("layer", no_wrap=True)
    for name in axes:
        table.add_column(_TITLES[name] if len(_TITLES[name]) <= box else _TITLES[name][:3], no_wrap=True, min_width=box)
    if courses:
        table.add_column("in time", no_wrap=True)
    for title in ("off", "off x") * away:
        table.add_column(title, justify="right", no_wrap=True)
    longest = min(_NAME, width // 3)
    for layer in inspection.layers:
        cells = [Text(_shortened(_name(layer), longest, glyphs))]
        cells += [_box_plot(layer, name, axis, box, glyphs) for name, axis in axes.items()]
        cells += [_course(inspection, layer.name, glyphs)] if courses else []
        table.add_row(*cells, *(_distance(layer) if away else ()))
    return table


def _box(room: int, axes: dict[str, _Axis]) -> int:
    """The width of a box plot, if all have `room` together."""
    return min(_WIDEST, max(4, room // len(axes) - 1))


def _axis(layers: Sequence[InspectedLayer], name: str) -> _Axis | None:
    """None where no layer has such a tensor."""
    values = [layer.tensors[name] for layer in layers if name in layer.tensors]
    if not values:
        return None
    every = np.concatenate(values)
    finite = every[np.isfinite(every)]
    log = name == "running_variance"
    finite = finite[finite > 0] if log else finite
    return _Axis(float(finite.min()), float(finite.max()), log) if len(finite) else _Axis(0.0, 1.0, False)


def _box_plot(layer: InspectedLayer, name: str, axis: _Axis, width: int, glyphs: _Glyphs) -> Text:
    """From the smallest to the largest channel, thick between the quartiles, and the median."""
    values = layer.tensors.get(name)
    if values is None:
        return Text("none")
    wrong = np.count_nonzero(~np.isfinite(values))
    if wrong:
        return Text(f"{wrong} {'NaN' if np.isnan(values).any() else 'inf'}"[:width], style="bold red")
    low, first, median, third, high = axis.places(np.quantile(values, [0, 0.25, 0.5, 0.75, 1]), width)
    line = [" "] * width
    line[low : high + 1] = glyphs.whisker * (high + 1 - low)
    line[first : third + 1] = glyphs.half * (third + 1 - first)
    line[median] = glyphs.median
    return Text("".join(line), style="cyan")


def _course(inspection: Inspection, layer: str, glyphs: _Glyphs) -> Text:
    """The median channel's running variance at eight moments, between the layer's own lowest and highest."""
    records = inspection.records
    if records is None or layer not in records.layers or "running_variance" not in records.per_channel:
        return Text("")
    medians = records.summary(layer, "running_variance")[:, records.SUMMARY.index("median")]
    chosen = medians[np.linspace(0, len(medians) - 1, min(_COURSE, len(medians))).round().astype(int)]
    finite = chosen[np.isfinite(chosen) & (chosen > 0)]
    if not len(finite):
        return Text("NaN", style="bold red")
    axis = _Axis(float(finite.min()), float(finite.max()), log=True)
    places = axis.places(np.where(np.isfinite(chosen), chosen, axis.low), len(glyphs.rising))
    marks = (glyphs.rising[place] if np.isfinite(value) else "!" for place, value in zip(places, chosen, strict=True))
    return Text("".join(marks), style="cyan")


def _distance(layer: InspectedLayer) -> tuple[Text, Text]:
    """Of the mean in standard deviations, and of the variance as a factor, in the colour of a finding about it."""
    if layer.away is None:
        return Text("-"), Text("-")
    mean, factor = layer.away.typical_mean, np.exp(min(layer.away.typical_log_ratio, 700.0))
    style = _SEVERITY[severity_of(layer.away)]
    return Text(_number(mean), style=style), Text(_number(float(factor)), style=style)


def _number(value: float) -> str:
    """In five characters at most."""
    return f"{value:.2f}" if value < 99 else f"{value:.0f}" if value < 9999 else f"{value:.0e}".replace("e+", "e")


def _name(layer: InspectedLayer) -> str:
    """A network that is nothing but one batch norm has no name for it."""
    return layer.name or "batch norm"


def _shortened(name: str, longest: int, glyphs: _Glyphs) -> str:
    """Its begin and its end, where layers differ."""
    if len(name) <= longest:
        return name
    begin = longest // 2 - 1
    return name[:begin] + glyphs.ellipsis + name[begin + 1 - longest :]


def _legend(out: Console, inspection: Inspection, axes: dict[str, _Axis], glyphs: _Glyphs, courses: bool) -> None:
    sample = glyphs.whisker + glyphs.half + glyphs.median + glyphs.half + glyphs.whisker
    ranges = "; ".join(f"{_TITLES[name]} {axis}" for name, axis in axes.items())
    out.print(f"\n{sample}  smallest to largest channel, middle half, median; {ranges}", style="dim")
    if courses:
        out.print("in time: the median variance as training went on, from its lowest to its highest", style="dim")
    if inspection.images:
        off = "off: running statistics from those of batches, mean in standard deviations, variance as a factor"
        out.print(f"{off}; {counted(inspection.images, 'image')}", style="dim")
