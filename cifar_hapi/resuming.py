"""Whether a run can go on, and as what."""

from __future__ import annotations

from pathlib import Path

from cifar_hapi.data.sources import Data
from cifar_hapi.errors import DataError, RecipeError, RunError
from cifar_hapi.recipe import Recipe, differing_keys, value_at
from cifar_hapi.run import Run

# A resume may change them: they say how long, from where, and when it is saved.
_SAVING = {f"checkpoint.{key}" for key in ("every_epochs", "every_steps", "every_seconds", "keep")}
_FREE = {"epochs", "name", "description", "data.dir", "data.store", *_SAVING}


def begun_run(path: str | Path | None, recipe: Recipe, allow_changes: bool = False) -> Run | None:
    """The run at `path` that `recipe` can go on with; None where there is none yet.

    Raises RunError, with the keys, for a run of another recipe, or of more epochs, unless changes are allowed, and
    RecipeError for fewer epochs than the run has behind it.
    """
    if path is None:
        raise RecipeError("resume needs run_dir: which run is to go on?")
    if not (Path(path) / "run.json").exists():
        return None
    run = Run(path)
    if origin := run.recorded("derived_from", dict):
        made = f"they were made from run {origin.get('run')}"
        raise RunError(f"run {path}: holds weights alone: there is nothing to go on training from; {made}")
    done = len(run.history)
    if recipe.epochs < done:
        raise RecipeError(f"epochs = {recipe.epochs}: run {path} has {done} behind it; ask for more")
    before, now = run.recipe.to_dict(), recipe.to_dict()
    free = _FREE if recipe.epochs >= run.recipe.epochs else _FREE - {"epochs"}
    differing = [key for key in differing_keys(run.recipe, recipe) if key not in free]
    if differing and not allow_changes:
        pairs = {key: (_said(value_at(before, key)), _said(value_at(now, key))) for key in differing}
        changes = ", ".join(f"{key} ({was}, now {is_now})" for key, (was, is_now) in pairs.items())
        raise RunError(
            f"run {path}: its recipe was another: {changes}; --allow-changes (allow_changes=True) goes on so"
        )
    return run


def _said(value: object) -> str:
    """As `--set` takes it."""
    return "none" if value is None else repr(value)


def is_complete(run: Run, recipe: Recipe) -> bool:
    """Whether nothing is left to do of `recipe`."""
    return run.status == "finished" and recipe.epochs == run.recipe.epochs


def check_same_data(run: Run, data: Data) -> None:
    """Raise DataError unless `data` are the images that the run has seen."""
    recorded, found = run.data.parts, data.identity().parts
    differing = [part for part in {**recorded, **found} if recorded.get(part) != found.get(part)]
    if differing:
        raise DataError(
            f"{data.source}: not the data of run {run.path} ({', '.join(differing)} differ); "
            "--allow-changes (allow_changes=True) goes on with it"
        )
