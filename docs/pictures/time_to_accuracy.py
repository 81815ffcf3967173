"""Draw accuracy against minutes of the runs beside docs/results.md, and where stock Paddle would be.

python docs/pictures/time_to_accuracy.py docs/results docs/recipe_steps.json docs/pictures/time_to_accuracy.svg

The second file is a result of `python -m benchmarks.recipe_steps --json` for these runs. A run under stock Paddle is
not measured but extrapolated: the same accuracies; for training steps and evaluated images the time that they take
there, for all else (starting, reading, saving, reporting) that of the run.
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

from style import plt  # beside this file

# What docs/results/train.py makes, without the seed, and what it is called here.
SHOWN = {"quick": "quick", "speed94": "speed94", "resnet20": "ResNet-20", "resnet18": "ResNet-18"}
COLOURS = ("#1f6feb", "#e5783a", "#2a9d6f", "#8250df")  # told apart by colour-blind readers, too
FORWARDS = {"plain": 1, "flip": 2 + 1, "flip_shift": 6 + 1}  # of each test image: by its views, and then alone


@dataclass(frozen=True)
class Course:
    """Runs of several seeds, as means: minutes of training steps and percent of held-out images after each epoch.

    held_out: empty where a recipe holds none out. whole: minutes of the whole run. evaluated: images that have been
    evaluated, once for each view. test: percent of all test images.
    """

    label: str
    views: str
    seeds: int
    training: tuple[float, ...]
    held_out: tuple[float, ...]
    whole: float
    evaluated: int
    test: float

    def under(self, row: dict[str, Any]) -> tuple[tuple[float, ...], float]:
        """`training` and `whole` with the steps of stock Paddle, by a row of benchmarks.recipe_steps."""
        evaluating = self.evaluated / row["evaluation"]["here"] / 60
        rest = self.whole - self.training[-1] - evaluating
        training = tuple(row["training"]["slowdown"] * minutes for minutes in self.training)
        return training, training[-1] + row["evaluation"]["slowdown"] * evaluating + rest


def main() -> None:
    results, speeds, picture = map(Path, sys.argv[1:])
    rows = {row["run"].rpartition("-")[0]: row for row in json.loads(speeds.read_text(encoding="utf-8"))["rows"]}
    drawn = []
    for name, label in SHOWN.items():
        folders = sorted(results.glob(f"{name}-[0-9]"))
        if folders and name not in rows:
            sys.exit(
                f"{speeds}: nothing of {name}; python -m benchmarks.recipe_steps {folders[0]} ... --json measures it"
            )
        if folders:
            runs = list(map(read_run, folders))
            check_same_kind(runs, rows[name], f"{speeds}: row {rows[name]['run']}")
            drawn.append((course(label, runs), rows[name]))
    draw(drawn, picture)


def check_same_kind(runs: list[dict[str, Any]], row: dict[str, Any], where: str) -> None:
    """Ends this program unless the steps were measured as the runs were trained: another machine has other ratios."""
    for run in runs:
        if differing := [key for key in ("engine", "precision") if run[key] != row[key]]:
            sys.exit(f"{where}: measured with another {', '.join(differing)} than {run['folder']} was trained with")


def read_run(folder: Path) -> dict[str, Any]:
    run = json.loads((folder / "run.json").read_text(encoding="utf-8")) | {"folder": folder}
    run["evaluation"] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    run["history"] = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return run


def course(label: str, runs: list[dict[str, Any]]) -> Course:
    def mean(of: Iterable[float]) -> float:
        return statistics.fmean(of)

    first, histories = runs[0], [run["history"] for run in runs]
    seconds = [list(itertools.accumulate(record["seconds"] for record in history)) for history in histories]
    views, parts = first["evaluation"]["views"], first["data"]["parts"]
    return Course(
        label=label,
        views=views,
        seeds=len(runs),
        training=tuple(mean(times) / 60 for times in zip(*seconds, strict=True)),
        held_out=tuple(100 * mean(each["eval_acc"] for each in epoch) for epoch in zip(*histories, strict=True))
        if "val" in parts
        else (),
        whole=mean(run["seconds"] for run in runs) / 60,
        evaluated=len(seconds[0]) * parts.get("val", {"images": 0})["images"]
        + FORWARDS[views] * parts["test"]["images"],
        test=100 * mean(run["evaluation"]["top1"] for run in runs),
    )


def draw(courses: list[tuple[Course, dict[str, Any]]], picture: Path) -> None:
    figure, axis = plt.subplots(figsize=(8, 5))
    for (each, row), colour in zip(courses, COLOURS, strict=False):
        seeds = f"{each.seeds} seeds" if each.seeds > 1 else "1 seed"
        training, whole = each.under(row)
        drawn = slice(len(each.held_out))
        axis.plot(each.training[drawn], each.held_out, "-", color=colour, label=f"{each.label}, {seeds}")
        axis.plot(training[drawn], each.held_out, ":", color=colour)
        axis.plot(each.whole, each.test, "o", color=colour)
        axis.plot(whole, each.test, "o", color=colour, fillstyle="none")
        views = "" if each.views == "plain" else f", {FORWARDS[each.views] - 1} views"
        axis.annotate(
            f"{each.test:.1f} %{views}", (each.whole, each.test), (8, 0), textcoords="offset points", va="center"
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("minutes")
    axis.set_ylabel("top-1 accuracy, %")
    axis.set_title(
        "lines: held-out images, seen once, by minutes of training; dots: all test images, by minutes of the run",
        loc="left",
        fontsize=8,
    )
    axis.plot([], [], "o:", color="#444444", fillstyle="none", label="stock Paddle, extrapolated from measured steps")
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
