"""A recipe's whole training beside PyTorch's own run of the published one, on all of CIFAR-10: minutes and accuracy.

    python -m benchmarks.speedrun --recipe speed94 --rounds 3

Long: each round is one training of each, one after the other. The clock runs from the start of the process, images and
network included, to the accuracy of all 10,000 test images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import TORCH_PYTHON
from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.timing import timed
from benchmarks.worker import run_child, warn_if_busy
from cifar_hapi.data.archives import find_cifar, read_cifar
from cifar_hapi.runtime import data_folders, usable_cores, versions

Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="speed94")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each, with seeds 0, 1, ...")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="PyTorch's")
    parser.add_argument("--torch-python", type=Path, default=TORCH_PYTHON, help="a Python that has PyTorch")
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    arguments = parser.parse_args()
    warn_if_busy()
    found: dict[str, list[Result]] = {"cifar-hapi": [], "PyTorch": []}
    with tempfile.TemporaryDirectory() as folder:
        images = save_cifar(Path(folder) / "cifar10.npz")
        for seed in range(arguments.rounds):
            found["cifar-hapi"].append(train_here(arguments.recipe, seed, Path(folder) / f"run-{seed}"))
            if arguments.torch_python.exists():
                found["PyTorch"].append(train_with_torch(arguments.torch_python, images, seed, arguments.precision))
    text = f"{show(found, arguments.recipe)}\n\n{machine_line(versions())}"
    report(text, {"versions": versions(), "recipe": arguments.recipe, "results": found}, arguments.json)


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
    command = [sys.executable, "-m", "cifar_hapi", "train", recipe, "--data", "cifar10", "--seed", str(seed)]
    seconds = timed(lambda: run_child([*command, "--run-dir", str(run), "--quiet"]))
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    plain = (evaluation.get("without_views") or evaluation)["top1"]
    about = {"engine": manifest["engine"], "precision": manifest["precision"]}
    return {"seed": seed, "seconds": seconds, "views": evaluation["top1"], "plain": plain, **about}


def train_with_torch(python: Path, images: Path, seed: int, precision: str) -> Result:
    command = [str(python), "-m", "benchmarks.torch_speedrun", "--images", str(images), "--seed", str(seed)]
    printed: list[str] = []
    options = ["--threads", str(usable_cores()), "--precision", precision]
    seconds = timed(lambda: printed.append(run_child([*command, *options])))
    return {"seed": seed, "precision": precision, **json.loads(printed[0]), "seconds": seconds}


def show(found: dict[str, list[Result]], recipe: str) -> str:
    titles = {"cifar-hapi": f"`{recipe}`", "PyTorch": "PyTorch, the published run"}
    rows = [
        (
            f"{titles[who]}, {results[0]['precision']}",
            " ".join(f"{result['seconds']:.0f}" for result in results),
            " ".join(f"{100 * result['views']:.2f}" for result in results),
            " ".join(f"{100 * result['plain']:.2f}" for result in results),
        )
        for who, results in found.items()
        if results
    ]
    table = markdown_table(["training", "seconds", "top-1 % with views", "top-1 % without"], rows)
    if not found["PyTorch"]:
        return f"{table}\n\nPyTorch is not installed: `make bench` puts it into .venv-torch"
    here, torch = (statistics.median(result["seconds"] for result in results) for results in found.values())
    return f"{table}\n\n{here / torch:.2f} of PyTorch's time"


if __name__ == "__main__":
    main()
