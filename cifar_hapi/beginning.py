"""How a training begins: as all its processes agree, and as run.json records it."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from callbacks import Checkpoint, CheckpointError, ResumePoint
from callbacks.processes import is_writer
from cifar_hapi import terminal
from cifar_hapi.building import Loaders, build_training, declared_checkpoint, images_to_probe
from cifar_hapi.comparison import trained_parameters
from cifar_hapi.data.sources import Data, open_data
from cifar_hapi.distributed import ranks
from cifar_hapi.distributed.agreement import check_same, refused_together
from cifar_hapi.distributed.departures import departures_told
from cifar_hapi.engine import EngineChoice
from cifar_hapi.errors import RunError
from cifar_hapi.loading import check_declared_network, use_declared_engine
from cifar_hapi.model import Model
from cifar_hapi.optimizer import check_optimizer
from cifar_hapi.pretrained import Start, WeightsFile, find_weights, put_weights, read_weights
from cifar_hapi.recipe import DataRecipe, Recipe, by_key
from cifar_hapi.recorded_data import as_found
from cifar_hapi.resuming import begun_run, check_same_data, is_complete
from cifar_hapi.run import FollowedRun, Run, followed_run, resumed_run, started_run
from cifar_hapi.run_path import free_run_path, new_run_path
from cifar_hapi.runtime import Setting, apply_settings, check_device, machine, paddle_session, slowed_by, versions

_OF_A_MACHINE = ("data.dir", "data.store")  # what processes on different ones may say differently


@dataclass(frozen=True)
class Plan:
    """What is trained, and where it is written. earlier: the run to go on with, None for a new one."""

    recipe: Recipe
    device: str
    path: Path
    earlier: Run | None
    allow_changes: bool

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.earlier is not None and is_complete(self.earlier, self.recipe)


@dataclass(frozen=True, eq=False)
class Begun:
    """A training that may take its first step; `run.model` is its model, where `checkpoint` has resumed it."""

    run: Run
    recipe: Recipe
    images: Data
    loaders: Loaders
    checkpoint: Checkpoint
    engine: EngineChoice
    probe: np.ndarray | None


def planned(recipe: Recipe, run_dir: str | Path | None, device: str, resume: bool, allow_changes: bool) -> Plan:
    """The plan of the first process, which the others follow, once all have been started alike.

    Raises, in all processes, what one refuses: RecipeError, RunError.
    """
    ranks.join()
    check_same("recipe", lambda: {key: value for key, value in by_key(recipe).items() if key not in _OF_A_MACHINE})
    check_same("installation", versions)
    plan = None
    with refused_together():
        check_declared_network(recipe.network)
        check_optimizer(recipe)
        check_device(device, ranks.count())
        if is_writer():
            earlier = begun_run(run_dir, recipe, allow_changes) if resume else None
            path = earlier.path if earlier else _free_path(recipe, run_dir)
            plan = Plan(recipe, device, path, earlier, allow_changes)
    place, manifest = ranks.of_the_first((str(plan.path), plan.earlier and plan.earlier.manifest) if plan else None)
    if plan is None:
        followed = FollowedRun(Path(place), manifest) if manifest else None
        plan = Plan(recipe, device, Path(place), followed, allow_changes)
    return plan


@contextlib.contextmanager
def begun(plan: Plan, talk: Console) -> Iterator[Begun]:
    """The training, with all that it needs, its run held until the end; run.json then tells how it ended.

    talk: where it is told how the training begins.
    """
    recipe, earlier = plan.recipe, plan.earlier
    with refused_together():
        weights = _weights_to_begin_with(plan, progress=not talk.quiet) if is_writer() else None
    settings = apply_settings()
    with paddle_session(plan.device, recipe.seed) as device, contextlib.ExitStack() as stack:
        declared = as_found(earlier, recipe.data) if earlier else recipe.data
        images = _opened(declared, recipe.seed, progress=not talk.quiet)
        check_same("data set", lambda: {part: about.sha256[:12] for part, about in images.identity().parts.items()})
        with refused_together():
            if earlier and not plan.allow_changes:
                check_same_data(earlier, images)
            model, loaders = build_training(recipe, images)
            start = put_weights(model.network, weights) if weights else None
            del weights  # a hundred megabytes of ResNet-50
            engine = use_declared_engine(model.network, recipe, device)
            checkpoint = declared_checkpoint(recipe, plan.path)
            probe = images_to_probe(recipe, images, device)
            manifest = _manifest(recipe, images, device, engine, settings) | _as_recorded(start, model)
            stack.enter_context(_refusals_as_run_errors(plan.path))
            resume = checkpoint.resume if earlier else None
            run = stack.enter_context(_held_run(plan.path, manifest, model, resume))
        way_out = f"`{terminal.resume_command(plan.path)}` goes on from the last checkpoint"
        stack.enter_context(departures_told(way_out))
        check_same("checkpoint", lambda: dataclasses.asdict(checkpoint.point or ResumePoint()))
        terminal.announce(talk, run, images, len(loaders[0]), start)
        if (engine.engine, device) == ("native", "cpu") and (late := slowed_by(settings)):
            talk.print(late)
        yield Begun(run, recipe, images, loaders, checkpoint, engine, probe)


def _free_path(recipe: Recipe, run_dir: str | Path | None) -> Path:
    return new_run_path(recipe.name) if run_dir is None else free_run_path(run_dir)


def _weights_to_begin_with(plan: Plan, progress: bool) -> WeightsFile | None:
    """What `network.pretrained` names, found and read; None where nothing is named, or the run has checkpoints.

    Raises RunError where the run at hand began with another file, and has no checkpoint yet.
    """
    network, earlier = plan.recipe.network, plan.earlier
    if network.pretrained is None or (earlier and earlier.had_checkpoints):
        return None
    found = read_weights(find_weights(network, progress=progress))
    before = (earlier.recorded("pretrained", dict) if earlier else None) or {}
    if before.get("sha256") not in (None, found.sha256) and earlier and not plan.allow_changes:
        raise RunError(
            f"run {earlier.path}: began with other weights than those in {found.path}; "
            "--allow-changes (allow_changes=True) begins with these"
        )
    return found


def _opened(declared: DataRecipe, seed: int, progress: bool) -> Data:
    """The images that are declared; where several processes are on a machine, the first finds them for the others."""
    images: Data | None = None
    for turn in (True, False) if ranks.count() > 1 else (True,):
        with refused_together():
            if (ranks.rank_on_machine() == 0) == turn:
                images = open_data(declared, seed, progress=progress)
                images.identity()  # here, where the others wait however long it takes to read all of it
    assert images is not None, "one of the turns is this process's"
    return images


def _held_run(
    path: Path, manifest: dict[str, Any], model: Model, resume: Callable[[Any], ResumePoint] | None
) -> contextlib.AbstractContextManager[Run]:
    """The run at `path`, to be entered: written by the first process; with `resume`, one that goes on."""
    if not is_writer():
        return followed_run(path, manifest, model, resume)
    return resumed_run(path, manifest, model, resume) if resume else started_run(path, manifest, model)


def _as_recorded(start: Start | None, model: Model) -> dict[str, Any]:
    recorded = {"pretrained": start.to_dict()} if start else {}
    return recorded | {"parameters": trained_parameters(model.network)}


@contextlib.contextmanager
def _refusals_as_run_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise RunError(f"run {path}: {error}") from None


def _manifest(recipe: Recipe, data: Data, device: str, engine: EngineChoice, settings: list[Setting]) -> dict[str, Any]:
    return {
        "format": 1,
        "recipe": recipe.to_dict(),
        "data": data.identity().to_dict(),
        "seed": recipe.seed,
        "device": device,
        "engine": engine.engine,
        "engine_reason": engine.why,
        "precision": engine.precision,
        "versions": versions(),
        "machine": machine(),
        "processes": ranks.count(),
        "settings": {each.name: {"value": each.value, "state": each.state, "why": each.why} for each in settings},
        "command": sys.argv,
    }
