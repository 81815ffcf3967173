"""What a page says of runs in words."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from cifar_hapi.comparison import Comparison, Result, outdated, result_of
from cifar_hapi.data.identity import DataIdentity
from cifar_hapi.metrics import interval
from cifar_hapi.recipe import Recipe, differing_keys, value_at
from cifar_hapi.recorded_evaluation import RecordedEvaluation
from cifar_hapi.reproduction import toml_value
from cifar_hapi.run import Run
from cifar_hapi.views import IN_WORDS

Facts = list[tuple[str, str]]


def summary_facts(run: Run, evaluation: RecordedEvaluation | None) -> Facts:
    """The number, and what must be known to believe it."""
    result, recipe = result_of(run), run.recipe
    unfinished = "" if result.status == "finished" else f" ({result.status})"
    stopped = f"; stopped early: {run.manifest['stopped']}" if run.manifest.get("stopped") else ""
    facts = _evaluation_facts(evaluation, outdated(run, evaluation)) if evaluation else []
    memory = megabytes(result.peak_memory or 0)
    epochs = f"{result.epochs} of {recipe.epochs} epochs, {recipe.batch_size} images a step{stopped}"
    return [
        *facts,
        ("data", _data_in_words(run.data)),
        ("network", f"{recipe.network.name}, {result.parameters / 1e6:.2f} M parameters"),
        ("recipe", f"{recipe.name}: {epochs}"),
        ("time", _time(result)),
        ("memory", f"the process took {memory} at most" if result.peak_memory else "not recorded"),
        ("engine", "{}, {}, on {}".format(*(run.manifest.get(key) for key in ("engine", "precision", "device")))),
        ("run", f"{run.path}{unfinished}, begun {_moment(run.manifest.get('started'))}"),
    ]


def origin_facts(run: Run) -> Facts:
    """What it was made with, on and of."""
    manifest, data = run.manifest, run.data
    command = manifest.get("command")
    shown = shlex.join(map(str, command)) if isinstance(command, list) else "not recorded"
    parts = [
        (f"{name} images", f"{part.images:,}, SHA-256 {part.sha256}") for name, part in data.parts.items()
    ]  # which say whether another run saw the same
    return [
        ("started as", shown),
        ("versions", _pairs(manifest.get("versions"))),
        ("machine", _pairs(manifest.get("machine"))),
        ("seed", str(run.recipe.seed)),
        ("data from", data.source),
        *parts,
        ("classes", ", ".join(data.class_names)),
    ]


def recipe_rows(recipe: Recipe) -> Facts:
    """The keys that differ from their defaults."""
    values = recipe.to_dict()
    keys = [key for key in differing_keys(Recipe(), recipe) if not isinstance(value_at(values, key), dict)]
    keys = [key for key in keys if key not in ("name", "description")]
    return [(key, in_short(value_at(values, key))) for key in keys]


def in_short(value: Any) -> str:
    """A value of a recipe as one would type it."""
    return "none" if value is None else value if isinstance(value, str) else toml_value(value)


_RESULTS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("status", lambda each: each.status),
    ("data", lambda each: "generated" if each.data == "synthetic" else each.data),
    ("test top-1", lambda each: _share(each.test)),
    ("test top-5", lambda each: _share(each.top5)),
    ("test loss", lambda each: "-" if each.loss is None else f"{each.loss:.4f}"),
    ("test weights", lambda each: each.weights or "-"),
    ("test views", lambda each: each.views or "-"),
    ("test images", lambda each: "-" if each.images is None else f"{each.images:,}"),
    ("validation, best", lambda each: _share(each.best_validation)),
    ("validation, last", lambda each: _share(each.last_validation)),
    ("epochs", lambda each: str(each.epochs)),
    ("seconds", lambda each: "-" if each.seconds is None else f"{each.seconds:,.0f}"),
    ("images/s", lambda each: "-" if each.images_per_second is None else f"{each.images_per_second:,.0f}"),
    ("parameters", lambda each: f"{each.parameters:,}"),
    ("peak memory", lambda each: megabytes(each.peak_memory) if each.peak_memory else "-"),
)


def result_rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """What came of each run: a title, and a text for each run."""
    return [(title, [shown(each) for each in comparison.results]) for title, shown in _RESULTS]


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _evaluation_facts(evaluation: RecordedEvaluation, outdated: bool) -> Facts:
    low, high = interval(evaluation.top1, evaluation.images)
    kind = "the last weights" if evaluation.weights == "latest" else "the best weights by checkpoint.monitor"
    if outdated:
        kind = f"the weights of step {evaluation.step}, since when it has been trained on"
    where = f"{evaluation.data}{_generated(evaluation.data)}"
    facts = [
        ("test top-1", f"{evaluation.top1:.2%}: {evaluation.right:,} right of all {evaluation.images:,} images"),
        ("", f"on {where}, by {kind}; 95 % interval {low:.1%} to {high:.1%}"),
    ]
    if evaluation.without_views is not None:
        views = IN_WORDS.get(evaluation.views, evaluation.views)  # type: ignore[call-overload]
        facts.append(("", f"with test-time augmentation, {views}; {evaluation.without_views.top1:.2%} without"))
    ece = f"expected calibration error {evaluation.calibration.ece:.4f}"
    return [*facts, ("test top-5", f"{evaluation.top5:.2%}"), ("test loss", f"{evaluation.loss:.4f}; {ece}")]


def _data_in_words(data: DataIdentity) -> str:
    purposes = (("train", "to train on"), ("val", "to validate"), ("test", "to test"))
    counted = [f"{data.parts[part].images:,} {purpose}" for part, purpose in purposes if part in data.parts]
    return f"{data.name}{_generated(data.name)}: images {', '.join(counted)}"


def _generated(name: str) -> str:
    return " (generated images, not CIFAR)" if name == "synthetic" else ""


def _moment(iso: Any) -> str:
    """As run.json has it, in UTC, to the minute."""
    return f"{iso[:10]} {iso[11:16]} UTC" if isinstance(iso, str) else "at an unknown time"


def _time(result: Result) -> str:
    if result.seconds is None:
        return "not recorded yet"
    speed = "" if result.images_per_second is None else f"; {result.images_per_second:,.0f} images/s in training"
    return f"{result.seconds:,.0f} s {'in all' if result.status == 'finished' else 'so far'}{speed}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _pairs(values: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) if isinstance(values, dict) else "not recorded"
