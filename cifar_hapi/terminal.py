"""What people read in the terminal."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cifar_hapi.comparison import best_record, training_speed
from cifar_hapi.data.sources import Data
from cifar_hapi.piped import trimmed
from cifar_hapi.prediction import Predictions
from cifar_hapi.pretrained import Start
from cifar_hapi.printable import escaped
from cifar_hapi.recipe import Recipe, differing_keys
from cifar_hapi.run import Run
from cifar_hapi.views import IN_WORDS

_SAID_ELSEWHERE = {"seed", "data.source", "data.dir"}
_ARTICLE_PERCENT = 85.94
# 55 of 64 with 95 % confidence by Wilson's interval (1927).
_ARTICLE = (
    f"an article's {_ARTICLE_PERCENT} % for ResNet-18, which are 55 right of the first 64 test images alone: "
    "anywhere from 75 % to 92 %"
)


def console(quiet: bool = False) -> Console:
    """Where text goes: no colour or markup is guessed from what it says."""
    return Console(quiet=quiet, highlight=False, markup=False, soft_wrap=True)


def announce(out: Console, run: Run, data: Data, steps: int, start: Start | None = None) -> None:
    """What is about to be trained, on what, from which weights if they were read, and where it will be found."""
    recipe = run.recipe
    held_out = f"{len(data.val):,} to validate" if data.val is not None else "none to validate"
    rows = [
        ("data", f"{data.name}: {len(data.train):,} images to train on, {held_out}, {len(data.test):,} to test"),
        ("from", _short(data.source)),
        ("network", f"{recipe.network.name}, {run.manifest['parameters'] / 1e6:.2f} M parameters"),
        ("engine", "{engine} ({engine_reason}), {precision}, on {device}".format(**run.manifest) + _by(run)),
        ("recipe", f"{recipe.name}: {recipe.epochs} x {steps} steps of {recipe.batch_size} images"),
        ("run", str(run.path)),
    ]
    if start:
        rows.insert(3, ("weights", _begun_with(start, len(data.train.class_names))))
    _rows(out, rows)
    _say(out, data.note)


def _by(run: Run) -> str:
    processes = run.manifest.get("processes", 1)
    return f", by {processes} processes" if processes > 1 else ""


def say_complete(out: Console, run: Run) -> None:
    """That there is nothing to resume, and what could be done."""
    stopped = f", stopped early: {run.manifest['stopped']}" if run.manifest.get("stopped") else ""
    epochs = len(run.history)
    count = f"{epochs} epoch{'s' if epochs != 1 else ''}"
    out.print(f"run {run.path} is complete: {count}{stopped}; more --epochs would extend it")


def summarise(out: Console, run: Run, report: str = "") -> None:
    """How a training went, where its files and its report are, and what to type next."""
    history, evaluation, program = run.history, run.evaluation, _program()
    assert evaluation is not None, "fit() evaluates before it summarises"
    rows = [
        ("epochs", _best_and_last(run)),
        ("time", f"{run.manifest['seconds']:.0f} s in all{_speed(history)}"),
        ("files", str(run.path)),
        *([("report", report)] if report else []),
        ("next", f"{program} evaluate {run.path}"),
        ("", f"{program} predict {run.path} IMAGE..."),
    ]
    headline(out, evaluation)
    if run.manifest.get("stopped"):
        rows.insert(0, ("stopped", run.manifest["stopped"]))
    if evaluation["data"] == "cifar10":
        rows.insert(0, ("compare", _beside_the_article(evaluation["top1"])))
    if evaluation["data"] == "cifar10" and (then := _then(run.recipe)):
        place = f" --data-dir {shlex.quote(run.recipe.data.dir)}" if run.recipe.data.dir else ""
        rows.append(("", f"{program} train {then[0]}{place}  ({then[1]})"))
    _rows(out, rows)


def resume_command(run: Path) -> str:
    """What to type to go on with a training."""
    return f"{_program()} resume {run}"


def _program() -> str:
    """What to type to have the command: its name, or where it is if the shell would not find it."""
    beside_python = Path(sys.executable).with_name("cifar-hapi")
    if shutil.which("cifar-hapi") or not beside_python.exists():
        return "cifar-hapi"
    here = Path.cwd()
    return shlex.quote(str(beside_python.relative_to(here) if beside_python.is_relative_to(here) else beside_python))


def _beside_the_article(top1: float) -> str:
    points = 100 * top1 - _ARTICLE_PERCENT
    return f"{abs(points):.1f} points {'below' if points < 0 else 'above'} {_ARTICLE}"


def _then(recipe: Recipe) -> tuple[str, str] | None:
    """The recipe to train after this one, and what it gives; None where that is for the user to say.

    After `quick`, apart from its seed and where images are; after fewer epochs or views of it, `quick` itself.
    """
    quick = Recipe.load("quick")
    changed = set(differing_keys(recipe, quick)) - _SAID_ELSEWHERE
    if recipe.name != "quick" or changed - {"epochs", "evaluation.views"} or recipe.epochs > quick.epochs:
        return None
    return ("quick", f"90 %, {quick.epochs} epochs") if changed else ("speed94", "94 %, five times the time")


def headline(out: Console, evaluation: dict[str, Any]) -> None:
    """The number, and all that must be known to believe it."""
    images, top1 = evaluation["images"], evaluation["top1"]
    out.print(f"test top-1 {top1:.2%}: {round(top1 * images):,} right of all {images:,} images", style="bold")
    if "without_views" in evaluation:
        plain, views = evaluation["without_views"]["top1"], IN_WORDS[evaluation["views"]]
        out.print(f"with test-time augmentation, {views}; {plain:.2%} without", style="bold")
    kind = "the last weights" if evaluation["weights"] == "latest" else "the best weights by checkpoint.monitor"
    out.print(f"top-5 {evaluation['top5']:.2%}, loss {evaluation['loss']:.4f}; on {evaluation['data']}, {kind}")
    _say(out, evaluation["note"])


def show_evaluation(out: Console, evaluation: dict[str, Any]) -> None:
    """The headline, the engine, the classes, and what they are taken for."""
    headline(out, evaluation)
    out.print(f"engine {evaluation['engine']}, {evaluation['precision']}")
    out.print(f"expected calibration error {evaluation['calibration']['ece']:.4f}")
    names = list(evaluation["per_class"])
    confusion = np.array(evaluation["confusion"])
    table = Table("class", "accuracy", "images", "most often taken for", box=None, pad_edge=False)
    for place, name in enumerate(names):
        row = confusion[place].copy()
        row[place] = 0
        mistaken = f"{names[row.argmax()]} ({row.max()})" if row.max() else ""
        table.add_row(name, f"{evaluation['per_class'][name]:.2%}", str(confusion[place].sum()), mistaken)
    with trimmed(out):
        out.print(table)


def show_predictions(out: Console, predictions: Predictions, top: int = 3) -> None:
    """A line an image: its class and file, then the runners-up; never broken, so that paths can be copied."""
    width = max(map(len, predictions.class_names))
    for source, row in zip(predictions.sources, predictions.probabilities, strict=True):
        first, *others = row.argsort()[::-1][:top]
        rest = ", ".join(f"{predictions.class_names[place]} {row[place]:.1%}" for place in others)
        out.print(f"{predictions.class_names[first]:{width}} {row[first]:6.1%}  {escaped(source)}  ({rest})")


def _begun_with(start: Start, classes: int) -> str:
    new = f"; its last layer tells {start.classes} classes apart and is replaced by a fresh one of {classes}"
    return f"{start.file}, by {start.names}'s names{new if start.head == 'replaced' else ''}"


def _best_and_last(run: Run) -> str:
    monitor, last, best = run.recipe.checkpoint.monitor, run.history[-1], best_record(run)
    if not best:
        return f"last {last['epoch']}; {monitor} was not measured, so no best"
    return "; ".join(
        f"{kind} {record['epoch']} ({monitor} {record.get(monitor, float('nan')):.4f})"
        for kind, record in (("best", best), ("last", last))
    )


def _speed(history: list[dict[str, Any]]) -> str:
    speed = training_speed(history)
    return f"; {speed:.0f} images/s in training" if speed else ""


def _short(path: str) -> str:
    home = Path.home()
    inside = home.parent != home and Path(path).is_relative_to(home)
    return str("~" / Path(path).relative_to(home)) if inside else path


def _say(out: Console, note: str) -> None:
    if note:
        out.print(note, style="bold yellow")


def _rows(out: Console, rows: list[tuple[str, str]]) -> None:
    """Labelled lines, never broken, so that paths and commands can be copied."""
    for label, text in rows:
        out.print(f"{label:9}{text}")
