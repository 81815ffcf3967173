"""The run directory: what a training leaves behind, and how it is found again.

runs/<name>/run.json           recipe, data identity, versions, machine, command, status
            history.jsonl      one line an epoch (and history.csv)
            checkpoints/       see callbacks/checkpoint_folder.py
            evaluation.json    the last evaluation
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from callbacks import CheckpointFolder, read_history
from callbacks.durable import write_file
from cifar_hapi.errors import RecipeError, RunError
from cifar_hapi.recipe import Recipe

RUNS = Path("runs")


class Run:
    """A training on disk; `fit` gives one, `Run(path)` opens one. Raises RunError when there is none at `path`.

    path: the run directory. model: the prepared `paddle.Model` where `fit` has just made it, else None (see `load`).
    """

    def __init__(self, path: str | Path, model: Any = None):
        self.path = Path(path)
        self.model = model
        self.manifest: dict[str, Any] = _read_object(self.path / "run.json")

    @classmethod
    def create(cls, path: str | Path, manifest: dict[str, Any]) -> Run:
        """A new run directory with `manifest` as its run.json. Raises RunError where there is a run already."""
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if (path / "run.json").exists():
                raise RunError(f"run {path}: exists already; choose another --run-dir, or remove it")
            write_file(path / "run.json", _json(manifest))
        except OSError as error:
            raise RunError(f"run {path}: cannot be written: {error.strerror}") from None
        return cls(path)

    @classmethod
    def newest(cls, folder: str | Path = RUNS) -> Run:
        """The run below `folder` that was started last. Raises RunError where there is none."""
        found = [cls(file.parent) for file in Path(folder).glob("*/run.json")]
        if not found:
            raise RunError(
                f"no run in {folder}/: train one first (make train, or cifar-hapi train), or name its directory"
            )
        return max(found, key=lambda run: str(run.manifest.get("started", "")))

    @property
    def recipe(self) -> Recipe:
        """The recipe as resolved when the run was made."""
        try:
            return Recipe.from_dict(dict(self.manifest["recipe"]), where=f"{self.path / 'run.json'}")
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"run {self.path}: run.json has no recipe ({error})") from None
        except RecipeError as error:
            raise RunError(f"{error} (written by another version?)") from None

    @property
    def status(self) -> str:
        """ "running", "finished", "interrupted" or "failed"."""
        return str(self.manifest.get("status"))

    @property
    def history(self) -> list[dict[str, Any]]:
        """One record an epoch, as `callbacks.History` writes them; empty before the first."""
        file = self.path / "history.jsonl"
        try:
            return read_history(file) if file.exists() else []
        except (OSError, ValueError) as error:
            raise RunError(f"run {self.path}: {error}") from None

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The last evaluation on the test set, None before the first."""
        file = self.path / "evaluation.json"
        return _read_object(file) if file.exists() else None

    @property
    def checkpoints(self) -> CheckpointFolder:
        return CheckpointFolder(self.path / "checkpoints")

    def update(self, **changes: Any) -> None:
        """Change keys of run.json, on disk too."""
        self.manifest.update(changes)
        write_file(self.path / "run.json", _json(self.manifest))

    def save_evaluation(self, evaluation: dict[str, Any]) -> None:
        write_file(self.path / "evaluation.json", _json(evaluation))


@contextmanager
def run_lock(path: str | Path) -> Iterator[None]:
    """Hold the run at `path` for this process alone. Raises RunError while another has it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / ".lock", timeout=0):
            yield
    except Timeout:
        raise RunError(
            f"run {path}: another process is writing to it; wait for it, or choose another --run-dir"
        ) from None
    except PermissionError as error:
        raise RunError(f"run {path}: cannot be written: {error.strerror}") from None


def now() -> str:
    """This moment, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def unused_path(name: str) -> Path:
    """A fresh directory below `runs/` for a run of the recipe `name`: name and local time, numbered if need be."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    candidates = (RUNS / (stem if number == 1 else f"{stem}-{number}") for number in range(1, 1000))
    return next(path for path in candidates if not path.exists())


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{file.parent} is no run: it has no {file.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise RunError(f"{file}: not a JSON object")
    return value
