"""Runs beside each other in the terminal: as many columns as there is room for, the others below."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cifar_hapi.comparison import Comparison
from cifar_hapi.report.run_facts import in_short, result_rows

_WIDEST = 24  # characters of a value
_GAP = 2

Row = tuple[str, list[str]]


def show(out: Console, comparison: Comparison, notes: bool = True) -> None:
    """Print the runs with a number each, then results and differing keys by these numbers."""
    for number, result in enumerate(comparison.results, 1):
        out.print(Text(f"{number}  {result.run}"), soft_wrap=True)
    for note in comparison.notes if notes else ():
        out.print(Text(note, style="bold yellow"))
    out.print()
    _tables(out, "results", result_rows(comparison))
    differing = [(key, [in_short(value) for value in values]) for key, values in comparison.differing.items()]
    if differing:
        _tables(out, "recipes", differing)
    elif len(comparison.results) > 1:
        out.print("recipes: all keys are the same")
    else:
        out.print("one run: name others to compare it with")


def _tables(out: Console, title: str, rows: Sequence[Row]) -> None:
    label = max(len(title), *(len(row) for row, _ in rows)) + _GAP
    room = max(8, out.width - label)
    widest = min(_WIDEST, room - _GAP)
    widths = [
        min(widest, max(len(str(place + 1)), *(len(texts[place]) for _, texts in rows)))
        for place in range(len(rows[0][1]))
    ]
    for columns in _groups(widths, room):
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        table.add_column(title, no_wrap=True, style="dim", min_width=label - _GAP)
        for place in columns:
            table.add_column(str(place + 1), justify="right", width=widths[place], overflow="fold")
        for row, texts in rows:
            table.add_row(Text(row), *(Text(texts[place]) for place in columns))
        out.print(table)
        out.print()


def _groups(widths: Sequence[int], room: int) -> list[list[int]]:
    """Which columns stand beside each other."""
    groups: list[list[int]] = []
    used = room
    for place, width in enumerate(widths):
        if used + width + _GAP > room + _GAP or not groups:  # the last one needs no gap
            groups.append([])
            used = 0
        groups[-1].append(place)
        used += width + _GAP
    return groups
