"""Draw accuracy against minutes of the runs beside docs/results.md, and where stock Paddle would be.

python docs/pictures/time_to_accuracy.py docs/results docs/pictures/time_to_accuracy.svg SPEEDS.json...

SPEEDS: results of `python -m benchmarks.training --json` that have stock Paddle and the engine for the networks of the
runs. A run under stock Paddle is not measured but extrapolated: the same accuracies, its own time for each step.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams |= {"svg.hashsalt": "cifar-hapi", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}

from matplotlib import pyplot as plt  # noqa: E402 - the backend comes first

# What docs/results/train.py makes, without the seed, and what it is called here.
SHOWN = {"quick": "quick", "speed94": "speed94", "resnet20": "ResNet-20", "resnet18": "ResNet-18"}
COLOURS = ("#1f6feb", "#e5783a", "#2a9d6f", "#8250df", "#8a8f98")  # told apart by colour-blind readers, too


@dataclass(frozen=True)
class Course:
    """Runs of several seeds: mean minutes, accuracies in percent of held-out images after each epoch, and at last."""

    label: str
    network: str  # as benchmarks.training names it: "airbench@32"
    batch_size: int
    precision: str
    seeds: int
    minutes: tuple[float, ...]
    accuracies: tuple[float, ...]
    test_minutes: float
    test_accuracy: float


def main() -> None:
    results, picture, *speeds = map(Path, sys.argv[1:])
    found = {name: [read_run(file.parent) for file in sorted(results.glob(f"{name}-*/run.json"))] for name in SHOWN}
    courses = [course(SHOWN[name], runs) for name, runs in found.items() if runs]
    rows = [row for file in speeds for row in json.loads(file.read_text(encoding="utf-8"))["rows"]]
    draw(sorted(courses, key=lambda each: each.test_minutes), rows, picture)


def read_run(folder: Path) -> dict[str, Any]:
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    run["evaluation"] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    run["history"] = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return run


def course(label: str, runs: list[dict[str, Any]]) -> Course:
    recipe, width = runs[0]["recipe"], runs[0]["recipe"]["network"]["width"]
    histories = [run["history"] for run in runs]

    def mean(of: Iterable[float]) -> float:
        return statistics.fmean(of)

    after_epoch = zip(*histories, strict=True)
    seconds = [list(itertools.accumulate(record["seconds"] for record in history)) for history in histories]
    return Course(
        label=label,
        network=recipe["network"]["name"] + (f"@{width}" if width else ""),
        batch_size=recipe["batch_size"],
        precision=runs[0]["precision"],
        seeds=len(runs),
        minutes=tuple(mean(times) / 60 for times in zip(*seconds, strict=True)),
        accuracies=tuple(100 * mean(record["eval_acc"] for record in records) for records in after_epoch),
        test_minutes=mean(run["seconds"] for run in runs) / 60,
        test_accuracy=100 * mean(run["evaluation"]["top1"] for run in runs),
    )


def slowdown(of: Course, rows: list[dict[str, Any]]) -> float:
    """How many times as long stock Paddle takes for a training step of the same network and batch size."""
    speeds = {
        row["contender"]: row["training"]["images_per_second"]
        for row in rows
        if (row["network"], row["batch_size"]) == (of.network, of.batch_size) and "missing" not in row
    }
    return speeds[f"onednn-{of.precision}"] / speeds["stock"]


def draw(courses: list[Course], rows: list[dict[str, Any]], picture: Path) -> None:
    figure, axis = plt.subplots(figsize=(8, 4.6))
    for each, colour in zip(courses, COLOURS, strict=False):
        factor = slowdown(each, rows)
        seeds = f"{each.seeds} seeds" if each.seeds > 1 else "1 seed"
        axis.plot(each.minutes, each.accuracies, "-", color=colour, label=f"{each.label}, {seeds}")
        axis.plot([factor * minutes for minutes in each.minutes], each.accuracies, ":", color=colour)
        axis.plot(each.test_minutes, each.test_accuracy, "o", color=colour)
        axis.plot(factor * each.test_minutes, each.test_accuracy, "o", color=colour, fillstyle="none")
        label = f"{each.test_accuracy:.1f} %"
        axis.annotate(label, (each.test_minutes, each.test_accuracy), (0, 7), textcoords="offset points", ha="center")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("minutes")
    axis.set_ylabel("top-1 accuracy, %")
    axis.set_title("lines: held-out images after each epoch; dots: all test images", loc="left", fontsize=8)
    axis.plot([], [], ":", color="#444444", label="stock Paddle, extrapolated from measured steps")
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
