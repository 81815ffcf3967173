"""Several runs beside each other: in what their recipes differ, and what came of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbacks.watch import Watch
from cifar_hapi.errors import RunError
from cifar_hapi.loading import build_declared_network
from cifar_hapi.recipe import differing_keys, value_at
from cifar_hapi.recorded_evaluation import RecordedEvaluation, recorded_evaluation
from cifar_hapi.run import Run
from cifar_hapi.runtime import paddle_session

_IN_OTHER_WORDS = {"name", "description"}  # of a recipe: they change nothing


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a run; None where that is not known.

    data: the set it was trained on; evaluated_on: that of its test images. best_validation, last_validation: accuracy
    on the validation images at the best epoch by `checkpoint.monitor`, and at the last. test, top5: over the `images`
    test images, by `weights`, seen as `views` says. seconds: of the training so far. images_per_second: of its steps.
    parameters: those that are trained. peak_memory: bytes of main memory.
    """

    run: str
    status: str
    data: str
    evaluated_on: str | None
    epochs: int
    best_validation: float | None
    last_validation: float | None
    test: float | None
    top5: float | None
    loss: float | None
    images: int | None
    weights: str | None
    views: str | None
    seconds: float | None
    images_per_second: float | None
    parameters: int
    peak_memory: int | None


@dataclass(frozen=True)
class Comparison:
    """differing: the dotted keys of recipes that are not the same in all runs, each with one value a run.

    notes: what must be known before the results are set beside each other.
    """

    results: tuple[Result, ...]
    differing: dict[str, tuple[Any, ...]]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)


def compare(runs: Sequence[Run | str | Path]) -> Comparison:
    """Set runs beside each other. Raises RunError for one that is missing or damaged."""
    opened = opened_runs(runs)
    return Comparison(tuple(map(result_of, opened)), _differing(opened), tuple(_notes(opened)))


def result_of(run: Run) -> Result:
    """What came of a run. Raises RunError where its files are damaged."""
    history, tested = run.history, recorded_evaluation(run)
    return Result(
        run=str(run.path),
        status=run.status,
        data=run.data.name,
        evaluated_on=tested.data if tested else None,
        epochs=len(history),
        best_validation=_number(best_record(run).get("eval_acc")),
        last_validation=_number(history[-1].get("eval_acc")) if history else None,
        test=tested.top1 if tested else None,
        top5=tested.top5 if tested else None,
        loss=tested.loss if tested else None,
        images=tested.images if tested else None,
        weights=tested.weights if tested else None,
        views=tested.views if tested else None,
        seconds=_number(run.manifest.get("seconds")),
        images_per_second=training_speed(history),
        parameters=_parameters(run),
        peak_memory=_count(run.manifest.get("peak_memory")),
    )


def best_record(run: Run) -> dict[str, Any]:
    """The epoch that is best by the recipe's `checkpoint.monitor`; {} where none was rated."""
    saving = run.recipe.checkpoint
    rated = [record for record in run.history if _number(record.get(saving.monitor)) is not None]
    better: Callable[..., Any] = max if Watch(saving.monitor, saving.mode).mode == "max" else min
    return better(rated, key=lambda record: record[saving.monitor]) if rated else {}


def _differing(runs: Sequence[Run]) -> dict[str, tuple[Any, ...]]:
    first, *others = [run.recipe for run in runs]
    keys = dict.fromkeys(key for other in others for key in differing_keys(first, other))
    values = {
        key: tuple(value_at(run.recipe.to_dict(), key) for run in runs) for key in keys if key not in _IN_OTHER_WORDS
    }
    return {key: each for key, each in values.items() if not any(isinstance(value, dict) for value in each)}


def _notes(runs: Sequence[Run]) -> list[str]:
    notes, evaluations = [], [recorded_evaluation(run) for run in runs]
    tested = {(found.data, found.images) for found in evaluations if found is not None}
    if len(tested) > 1 or len({run.data.parts["test"].sha256 for run in runs}) > 1:
        notes.append("The runs were not tested on the same images: their accuracies cannot be compared.")
    if any(run.data.name == "synthetic" for run in runs):
        notes.append("synthetic: generated images, so no result on them is a CIFAR result.")
    for run, found in zip(runs, evaluations, strict=True):
        if found is not None and outdated(run, found):
            notes.append(f"{run.path.name} has been trained on since step {found.step}, of which its test results are.")
    if len({str(_without_threads(run.manifest.get("machine"))) for run in runs}) > 1:
        notes.append("The runs were made on different machines: their times say little.")
    if len({run.manifest.get("processes", 1) for run in runs}) > 1:
        by = ", ".join(f"{run.path.name}: {run.manifest.get('processes', 1)}" for run in runs)
        notes.append(f"The runs were made by different numbers of processes ({by}).")
    return notes


def outdated(run: Run, evaluation: RecordedEvaluation) -> bool:
    """Whether the run has gone on since its last weights were evaluated."""
    steps = [record["step"] for record in run.history if _count(record.get("step")) is not None]
    return evaluation.weights == "latest" and bool(steps) and evaluation.step < steps[-1]


def _without_threads(machine: Any) -> Any:
    """What run.json says of the machine alone: several processes on it share out its cores."""
    return {key: value for key, value in machine.items() if key != "threads"} if isinstance(machine, dict) else machine


def training_speed(history: Sequence[dict[str, Any]]) -> float | None:
    """Images a second over all steps; None where it is recorded of none, or of first ones alone."""
    pairs = [(_number(record.get("seconds")), _number(record.get("images_per_second"))) for record in history]
    known = [(seconds, speed) for seconds, speed in pairs if seconds and speed]
    seconds = sum(seconds for seconds, _ in known)
    return sum(seconds * speed for seconds, speed in known) / seconds if known else None


def _parameters(run: Run) -> int:
    """As recorded; older runs have not recorded it, so their network is built."""
    recorded = _count(run.manifest.get("parameters"))
    if recorded is not None:
        return recorded
    with paddle_session("cpu"):
        return trained_parameters(build_declared_network(run.recipe.network, len(run.data.class_names)))


def trained_parameters(network: Any) -> int:
    """How many numbers of a network training changes."""
    return sum(int(parameter.size) for parameter in network.parameters() if not parameter.stop_gradient)


def _number(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def opened_runs(runs: Run | str | Path | Sequence[Run | str | Path]) -> list[Run]:
    """One run or several, each opened. Raises RunError where there is none."""
    several = [runs] if isinstance(runs, Run | str | Path) else list(runs)
    if not several:
        raise RunError("no run is named; name at least one run directory")
    return [run if isinstance(run, Run) else Run(run) for run in several]
