"""The steps of whole recipes, as they train here and in stock Paddle: how many times as long those would take.

    python -m benchmarks.recipe_steps docs/results/quick-0 docs/results/resnet20-0 --json > docs/recipe_steps.json

Each folder has the run.json of a run, whose recipe is measured: network, optimiser, loss and batch sizes.
docs/pictures/time_to_accuracy.py draws stock Paddle's times by the result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.timing import Spread
from benchmarks.worker import Worker, round_robin, warn_if_busy

HERE, STOCK = "here", "stock"
WORKS = {"training": "batch_size", "evaluation": "eval_batch_size"}

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder with a run.json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn; it has a step at least")
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    arguments = parser.parse_args()
    warn_if_busy()
    rows: list[Row] = []
    for run in arguments.runs:
        rows.append(measure(run / "run.json", arguments.rounds, arguments.seconds))
        print(show(rows[-1:]), file=sys.stderr)
    versions = rows[0]["versions"]
    report(f"{show(rows)}\n\n{machine_line(versions)}", {"versions": versions, "rows": rows}, arguments.json)


def measure(run: Path, rounds: int, seconds: float) -> Row:
    command = [sys.executable, "-m", "benchmarks.recipe_worker", "--run", str(run.resolve())]
    with ExitStack() as stack:
        workers = {
            HERE: stack.enter_context(Worker(command)),
            STOCK: stack.enter_context(Worker([*command, "--stock"])),
        }
        samples = round_robin(workers, rounds, seconds)
    about = workers[HERE].about
    return {"run": run.parent.name, **about} | figures(samples, about)


def figures(samples: Mapping[tuple[str, str], Sequence[float]], about: Mapping[str, Any]) -> Row:
    """By work: images a second of both, and how many times as long stock Paddle takes."""
    found: Row = {}
    for work, size in WORKS.items():
        speeds = {who: about[size] / Spread.of(samples[who, work]).median for who in (HERE, STOCK)}
        found[work] = {**speeds, "slowdown": speeds[HERE] / speeds[STOCK]}
    return found


def show(rows: Sequence[Row]) -> str:
    header = ["run", "here", "images/s", "stock Paddle", "times", "evaluating, images/s", "stock Paddle", "times"]
    return markdown_table(
        header,
        [
            (
                row["run"],
                f"{row['engine']}, {row['precision']}",
                *(f"{row[work][key]:.{digits}f}" for work in WORKS for key, digits in _DIGITS.items()),
            )
            for row in rows
        ],
    )


_DIGITS = {HERE: 0, STOCK: 1, "slowdown": 1}


if __name__ == "__main__":
    main()
