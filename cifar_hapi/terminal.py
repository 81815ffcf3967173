"""What people read in the terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from rich.console import Console
from rich.table import Table

from .data.sources import Data
from .prediction import Predictions
from .recipe import Recipe
from .run import Run
from .runtime import machine


def console(quiet: bool = False, stderr: bool = False) -> Console:
    """Where text goes: no colour or markup is guessed from what it says."""
    return Console(quiet=quiet, stderr=stderr, highlight=False, markup=False, soft_wrap=True)


def announce(out: Console, run: Run, data: Data, network: paddle.nn.Layer, steps: int) -> None:
    """What is about to be trained, on what, and where it will be found."""
    recipe = run.recipe
    parameters = sum(parameter.size for parameter in network.parameters())
    val = f"{len(data.val):,} to validate" if data.val is not None else "none to validate"
    out.print(f"{data.name}: {len(data.train):,} images to train on, {val}, {len(data.test):,} to test ({data.source})")
    if data.note:
        out.print(data.note, style="bold yellow")
    out.print(
        f"{recipe.name}: {recipe.network.name}, {parameters / 1e6:.2f} M parameters; {recipe.epochs} epochs of {steps} steps "
        f"of {recipe.batch_size} images; on {run.manifest['device']}, {machine()['cores']} cores"
    )
    out.print(f"run: {run.path}")


def summarise(out: Console, run: Run) -> None:
    """How a training went, where its files are, and what to type next."""
    history, evaluation = run.history, run.evaluation
    assert evaluation is not None
    last = history[-1]
    monitor = run.recipe.checkpoint.monitor
    rated = [record for record in history if monitor in record]
    if rated:
        best = (max if run.recipe.checkpoint.mode == "max" else min)(rated, key=lambda record: float(record[monitor]))
        out.print(f"best epoch {best['epoch']} ({monitor} {best[monitor]:.4f}), last epoch {last['epoch']} ({monitor} {last[monitor]:.4f})")
    else:
        out.print(f"last epoch {last['epoch']}; no validation images, so no best one")
    seconds = sum(record["seconds"] for record in history)
    images = sum(record["seconds"] * record["images_per_second"] for record in history)
    out.print(f"{run.manifest['seconds']:.0f} s in all, {images / max(seconds, 1e-9):.0f} images/s in training")
    headline(out, evaluation)
    out.print(f"files: {run.path}")
    out.print(f"next:  cifar-hapi evaluate {run.path}")
    out.print(f"       cifar-hapi predict {run.path} IMAGE...")


def headline(out: Console, evaluation: dict[str, Any]) -> None:
    """The number, and all that must be known to believe it."""
    kind = "last weights" if evaluation["weights"] == "latest" else "best weights by the validation images"
    out.print(
        f"test top-1 {evaluation['top1']:.2%} ({round(evaluation['top1'] * evaluation['images']):,} of {evaluation['images']:,} images), "
        f"top-5 {evaluation['top5']:.2%}, loss {evaluation['loss']:.4f}; {evaluation['data']}, {kind}",
        style="bold",
    )
    if evaluation["note"]:
        out.print(evaluation["note"], style="bold yellow")


def show_evaluation(out: Console, evaluation: dict[str, Any]) -> None:
    """The headline, the classes, and what they are taken for."""
    headline(out, evaluation)
    out.print(f"expected calibration error {evaluation['calibration']['ece']:.4f}")
    names = list(evaluation["per_class"])
    confusion = np.array(evaluation["confusion"])
    table = Table("class", "accuracy", "images", "most often taken for", box=None, pad_edge=False)
    for place, name in enumerate(names):
        row = confusion[place].copy()
        row[place] = 0
        mistaken = f"{names[row.argmax()]} ({row.max()})" if row.max() else ""
        table.add_row(name, f"{evaluation['per_class'][name]:.2%}", str(confusion[place].sum()), mistaken)
    out.print(table)


def show_predictions(out: Console, predictions: Predictions, top: int = 3) -> None:
    """A line an image: its class, and the `top` most probable ones."""
    table = Table("image", "class", "probabilities", box=None, pad_edge=False)
    for source, name, row in zip(predictions.sources, predictions.names, predictions.probabilities, strict=True):
        order = row.argsort()[::-1][:top]
        table.add_row(source, name, ", ".join(f"{predictions.class_names[place]} {row[place]:.1%}" for place in order))
    out.print(table)


def show_recipes(out: Console, recipes: list[Recipe]) -> None:
    """A line a recipe."""
    table = Table("recipe", "what it does", box=None, pad_edge=False)
    for recipe in recipes:
        table.add_row(recipe.name, recipe.description)
    out.print(table)
