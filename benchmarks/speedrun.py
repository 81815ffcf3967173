"""A recipe's whole training beside PyTorch's own run of the published one, on all of CIFAR-10: minutes and accuracy.

    python -m benchmarks.speedrun --recipe speed94 --seeds 0 1 2

Long: for each seed one training of each, one after the other, and whoever was second begins the next. The clock runs
from the start of the process, images and network included, to the accuracy of all 10,000 test images by six views and
by one. PyTorch's images are decoded before; cifar-hapi reads the archive, holds images out to validate, saves
checkpoints and writes its report within its time. PyTorch is as installed; `--contenders` also knows it with glibc told
to keep memory, as cifar-hapi does by itself. Results are kept in the folder --out as they come, the runs too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import KEEP_MEMORY, TORCH_PYTHON
from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.timing import timed
from benchmarks.worker import clean_environment, run_child, warn_if_busy
from callbacks.durable import write_file
from cifar_hapi.data.archives import find_cifar, read_cifar
from cifar_hapi.engine import onednn_availability
from cifar_hapi.runtime import data_folders, usable_cores, versions

HERE, TORCH, TORCH_KEEPING = "cifar-hapi", "PyTorch", "PyTorch, glibc keeps memory"

Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="speed94")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings of each")
    parser.add_argument("--contenders", nargs="+", default=[HERE, TORCH], choices=(HERE, TORCH, TORCH_KEEPING))
    parser.add_argument("--torch-python", type=Path, default=TORCH_PYTHON, help="a Python that has PyTorch")
    parser.add_argument("--out", type=Path, default=Path("runs/speedrun"), help="where results are kept, by recipe")
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    arguments = parser.parse_args()
    warn_if_busy()
    arguments.out /= Path(arguments.recipe).stem
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.torch_python.exists():
        arguments.contenders = [HERE]
    with tempfile.TemporaryDirectory() as folder:
        trainings = trainings_of(arguments, save_cifar(Path(folder) / "cifar10.npz"))
        found = measure(trainings, arguments.seeds, arguments.out)
    text = f"{show(found, arguments.recipe)}\n\n{machine_line(versions())}"
    report(text, {"versions": versions(), "recipe": arguments.recipe, "results": found}, arguments.json)


def measure(trainings: dict[str, Callable[[int], Result]], seeds: list[int], out: Path) -> dict[str, list[Result]]:
    """The results of each contender by seed. Those that `out` has from an earlier start are not made again."""
    found: dict[str, list[Result]] = {who: [] for who in trainings}
    for turn, seed in enumerate(seeds):
        for who in list(trainings)[:: -1 if turn % 2 else 1]:
            kept = out / f"{who.replace(', ', '-').replace(' ', '-')}-{seed}.json"
            if not kept.exists():
                write_file(kept, json.dumps(trainings[who](seed)) + "\n")
            found[who].append(json.loads(kept.read_text(encoding="utf-8")))
    return found


def trainings_of(arguments: argparse.Namespace, images: Path) -> dict[str, Callable[[int], Result]]:
    """For each contender, the function from a seed to the result of its training."""
    python, keeping = arguments.torch_python, clean_environment() | KEEP_MEMORY
    all_trainings: dict[str, Callable[[int], Result]] = {
        HERE: lambda seed: train_here(arguments.recipe, seed, arguments.out / f"run-{seed}"),
        TORCH: lambda seed: train_with_torch(python, images, seed),
        TORCH_KEEPING: lambda seed: train_with_torch(python, images, seed, keeping),
    }
    return {who: all_trainings[who] for who in arguments.contenders}


def save_cifar(path: Path) -> Path:
    """All images and labels of CIFAR-10, for a child that has no Paddle."""
    place = next((found for folder in data_folders(None) if (found := find_cifar(folder, "cifar10"))), None)
    if place is None:
        sys.exit("no CIFAR-10 here: set $CIFAR_HAPI_DATA, or run cifar-hapi data fetch cifar10")
    train, test = read_cifar(place, "cifar10")
    parts = {"train": train.images, "train_labels": train.labels, "test": test.images, "test_labels": test.labels}
    np.savez(path, **parts)
    return path


def train_here(recipe: str, seed: int, run: Path) -> Result:
    shutil.rmtree(run, ignore_errors=True)  # of a start that was cut: a training in two parts has no time
    command = [sys.executable, "-m", "cifar_hapi", "train", recipe, "--data", "cifar10", "--seed", str(seed)]
    seconds = timed(lambda: run_child([*command, "--run-dir", str(run), "--quiet"]))
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    plain = (evaluation.get("without_views") or evaluation)["top1"]
    about = {"engine": manifest["engine"], "precision": manifest["precision"]}
    return {"seed": seed, "seconds": seconds, "views": evaluation["top1"], "plain": plain, **about}


def train_with_torch(python: Path, images: Path, seed: int, environment: dict[str, str] | None = None) -> Result:
    precision = "bfloat16" if onednn_availability().native_bfloat16 else "float32"
    command = [str(python), "-m", "benchmarks.torch_speedrun", "--images", str(images), "--seed", str(seed)]
    options = ["--threads", str(usable_cores()), "--precision", precision]
    printed: list[str] = []
    seconds = timed(lambda: printed.append(run_child([*command, *options], environment)))
    return {"seed": seed, "precision": precision, **json.loads(printed[0]), "seconds": seconds}


def show(found: dict[str, list[Result]], recipe: str) -> str:
    torch = "the published run in PyTorch"
    titles = {HERE: f"`{recipe}`", TORCH: f"{torch} as installed", TORCH_KEEPING: f"{torch}, glibc keeps memory"}
    medians = {who: statistics.median(result["seconds"] for result in results) for who, results in found.items()}
    rows = [
        (
            f"{titles[who]}, {results[0]['precision']}",
            " ".join(f"{result['seconds']:.0f}" for result in results),
            " ".join(f"{100 * result['views']:.2f}" for result in results),
            " ".join(f"{100 * result['plain']:.2f}" for result in results),
            f"{medians[HERE] / medians[who]:.2f}" if HERE in medians else "",
        )
        for who, results in found.items()
    ]
    header = ["training", "seconds", "top-1 % with views", "top-1 % without", f"`{recipe}` takes, of its time"]
    table = markdown_table(header, rows)
    alone = list(found) == [HERE]
    return f"{table}\n\nPyTorch is not installed: `make bench` puts it into .venv-torch" if alone else table


if __name__ == "__main__":
    main()
