"""Draw the training speeds of a result of `python -m benchmarks.training --json`.

python docs/pictures/performance.py docs/performance.json docs/pictures/performance.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from style import plt  # beside this file

COLOURS = {"stock": "#8a8f98", "native": "#8a8f98", "onednn": "#1f6feb", "torch": "#e5783a"}


def main() -> None:
    result, picture = map(Path, sys.argv[1:])
    draw(json.loads(result.read_text(encoding="utf-8")), picture)


def draw(result: dict[str, Any], picture: Path) -> None:
    """One panel a network and batch size, one bar a contender, in images a second of a training step."""
    panels: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        if "missing" not in row:
            panels.setdefault((row["network"], row["batch_size"]), []).append(row)
    tallest = max(map(len, panels.values()))
    figure, axes = plt.subplots(len(panels), squeeze=False, figsize=(8, len(panels) * (0.7 + 0.22 * tallest)))
    for axis, ((network, batch_size), rows) in zip(axes[:, 0], panels.items(), strict=True):
        draw_panel(axis, rows)
        axis.set_title(f"{network}, batch {batch_size}: images/s in training", loc="left", fontweight="bold")
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})


def draw_panel(axis: Any, rows: list[dict[str, Any]]) -> None:
    names = [row["title"] for row in rows]
    speeds = [row["training"]["images_per_second"] for row in rows]
    bars = axis.barh(names, speeds, color=[COLOURS[row["contender"].partition("-")[0]] for row in rows])
    axis.bar_label(bars, [_label(row["training"]) for row in rows], padding=3)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.25 * max(speeds))
    axis.spines[["top", "right"]].set_visible(False)


def _label(training: dict[str, Any]) -> str:
    speed = training["images_per_second"]
    text = f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"
    return text if training["to_stock"] is None else f"{text}   {training['to_stock']:.1f}x"


if __name__ == "__main__":
    main()
