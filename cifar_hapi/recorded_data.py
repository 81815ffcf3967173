"""Where the images that a run recorded are looked for again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from cifar_hapi.data.sources import is_on_disk, stored_size
from cifar_hapi.errors import RecipeError
from cifar_hapi.recipe import DataRecipe
from cifar_hapi.run import Run


def declared_again(run: Run, source: str | None = None, data_dir: str | Path | None = None) -> DataRecipe:
    """What `open_data` opens to have the run's images again, or those of another `source` in the size of the run's own.

    data_dir: where they are looked for, if not where the recipe says. Whether they are the same is for the caller to
    check, by their SHA-256. Raises RecipeError for a source that cannot be.
    """
    declared, name = run.recipe.data, run.data.name
    place = str(data_dir) if data_dir else declared.dir
    size = stored_size(name, declared.image_size)
    try:
        again = replace(declared, source=name if source is None else source, dir=place, image_size=size)
    except ValidationError:
        raise RecipeError(f"run {run.path}: {name if source is None else source!r} is no source of data") from None
    return again if source or data_dir else as_found(run, again)


def as_found(run: Run, declared: DataRecipe) -> DataRecipe:
    """`declared`, to go on with `run`: "auto" is what it was then, and CIFAR is where it was, if it is nowhere else."""
    known = replace(declared, source=run.data.name) if declared.source == "auto" else declared
    there = replace(known, dir=str(Path(run.data.source).parent))
    moved = known.source == run.data.name and not is_on_disk(known) and is_on_disk(there)
    return there if moved else known
