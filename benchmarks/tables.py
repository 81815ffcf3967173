"""How results are shown: a Markdown table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_hapi.runtime import machine


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table whose columns line up; a column is set to the right unless it begins with words."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    words = [not any(row[place][:1].isdigit() for row in cells[1:]) for place in range(len(header))]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, words, strict=True)
        )
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) if left else "-" * (w + 1) + ":" for w, left in zip(widths, words, strict=True))
    return "\n".join([lines[0], rule + "|", *lines[1:]])


def report(text: str, result: Mapping[str, Any], as_json: bool) -> None:
    """Print `text`; or `result` as JSON, and the text beside it on standard error."""
    print(text, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps({"machine": machine(), **result}, indent=1))


def machine_line(versions: Mapping[str, str]) -> str:
    """What was measured on: "AMD EPYC, 2 cores, Linux-...; paddle 3.3.1, python 3.11.4"."""
    here = machine()
    programs = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{here['cpu']}, {here['cores']} cores, {here['system']}; {programs}"
