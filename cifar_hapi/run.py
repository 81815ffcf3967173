"""The run directory: what a training leaves behind, and how it is found again.

runs/<name>/run.json           recipe, data identity, versions, machine, command, status
            history.jsonl      one line an epoch (and history.csv)
            steps.jsonl        one line every five steps
            bn/stats.jsonl     see callbacks/bn_file.py; where the recipe has bn_stats
               page.html       what `cifar-hapi bn --html` writes
            checkpoints/       see callbacks/checkpoint_folder.py
            evaluation.json    the last evaluation
            answers.safetensors   what it found of each image, see answers.py
            report.html        what `cifar-hapi report` writes
"""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from callbacks import BatchNormRecords, CheckpointFolder, ResumePoint, load_bn_stats, read_history
from callbacks.bounded_file import read_bounded
from callbacks.durable import write_file
from cifar_hapi.data.identity import DataIdentity
from cifar_hapi.errors import LostProcess, RecipeError, RunError
from cifar_hapi.printable import is_fit_to_print
from cifar_hapi.recipe import Recipe
from cifar_hapi.run_path import RUNS, free_run_path, no_run_at, no_run_in

Kind = TypeVar("Kind")

_MOST_BYTES = 2**25  # of run.json and evaluation.json; a thousand classes take six million


class Run:
    """A training on disk; `fit` gives one, `Run(path)` opens one. Raises RunError when there is none at `path`.

    path: the run directory. model: the prepared `paddle.Model` where `fit` has just made it, else None (see `load`).
    """

    def __init__(self, path: str | Path, model: Any = None):
        self.path = Path(path)
        self.model = model
        self.manifest: dict[str, Any] = _read_object(self.path / "run.json")

    @classmethod
    def newest(cls, folder: str | Path = RUNS) -> Run:
        """The run below `folder` that was started last. Raises RunError where there is none."""
        found = []
        for file in Path(folder).glob("*/run.json"):
            with contextlib.suppress(RunError):  # a damaged one does not hide the others
                found.append(cls(file.parent))
        if not found:
            raise no_run_in(folder)
        return max(found, key=lambda run: str(run.manifest.get("started", "")))

    @property
    def recipe(self) -> Recipe:
        """The recipe as resolved when the run was made."""
        try:
            return Recipe.from_dict(dict(self.manifest["recipe"]), where=f"{self.path / 'run.json'}")
        except (KeyError, TypeError, ValueError):
            raise RunError(f"run {self.path}: run.json has no recipe") from None
        except RecipeError as error:
            raise RunError(f"{error} (written by another version?)") from None

    @property
    def data(self) -> DataIdentity:
        """The data that the run was made with."""
        try:
            return TypeAdapter(DataIdentity).validate_python(self.manifest.get("data"))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, ("data", *first["loc"])))
            raise RunError(f"run {self.path}: run.json: {key}: {first['msg'].lower()}") from None

    @property
    def status(self) -> str:
        """ "running", "finished", "interrupted" or "failed"; a run whose process was killed is "interrupted"."""
        told = str(self.manifest.get("status"))
        return "interrupted" if told == "running" and not self._is_held() else told

    @property
    def history(self) -> list[dict[str, Any]]:
        """One record an epoch, as `callbacks.History` writes them; empty before the first."""
        return self._records(self.path / "history.jsonl")

    @property
    def steps_path(self) -> Path:
        """Where the course within the epochs is recorded."""
        return self.path / "steps.jsonl"

    @property
    def steps(self) -> list[dict[str, Any]]:
        """One record every five steps, as `callbacks.StepHistory` writes them; empty where none were recorded."""
        return self._records(self.steps_path)

    def _records(self, file: Path) -> list[dict[str, Any]]:
        try:
            return read_history(file) if file.is_file() else []
        except (OSError, ValueError) as error:
            raise RunError(f"run {self.path}: {error}") from None

    @property
    def bn_path(self) -> Path:
        """Where batch-norm statistics are recorded, if they are."""
        return self.path / "bn" / "stats.jsonl"

    @property
    def bn_page_path(self) -> Path:
        """Where `cifar-hapi bn --html` puts its page."""
        return self.path / "bn" / "page.html"

    @property
    def bn_stats(self) -> BatchNormRecords | None:
        """The batch-norm statistics as recorded by `callbacks.BatchNormStats`; None where the recipe has none."""
        try:
            return load_bn_stats(self.bn_path) if self.bn_path.is_file() else None
        except (OSError, ValueError) as error:
            raise RunError(f"run {self.path}: {error}") from None

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The last evaluation on the test set, None before the first."""
        file = self.path / "evaluation.json"
        return _read_object(file) if file.exists() else None

    @property
    def answers_path(self) -> Path:
        """Where is what the last evaluation found of each test image."""
        return self.path / "answers.safetensors"

    @property
    def report_path(self) -> Path:
        """Where `cifar-hapi report` puts its page."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> CheckpointFolder:
        return CheckpointFolder(self.path / "checkpoints")

    @property
    def had_checkpoints(self) -> bool:
        """Whether one has ever been complete: a run that was killed before may have epochs in its history, too.

        The first is on disk before the second is begun, and by then the history has one record of the epoch after.
        """
        folder, every = self.checkpoints, self.recipe.checkpoint.every_epochs
        return bool(folder.names()) or (folder.path / "latest").exists() or len(self.history) > 2 * every

    def recorded(self, key: str, kind: type[Kind]) -> Kind | None:
        """What run.json has under `key`, None if nothing. Raises RunError unless that is a `kind`."""
        value = self.manifest.get(key)
        if value is not None and not isinstance(value, kind):
            raise RunError(f"run {self.path}: run.json: {key}: is no {kind.__name__}")
        return value

    def _is_held(self) -> bool:
        """Whether a process, this one perhaps, is writing to the run."""
        try:
            with FileLock(self.path / ".lock", timeout=0):
                return False
        except (Timeout, OSError):
            return True

    def update(self, **changes: Any) -> None:
        """Change keys of run.json, on disk too."""
        self.manifest.update(changes)
        try:
            text = _json(self.manifest)
        except ValueError:
            raise RunError(f"run {self.path}: run.json: holds NaN or infinity, which no JSON can") from None
        write_file(self.path / "run.json", text)

    def save_evaluation(self, evaluation: dict[str, Any]) -> None:
        write_file(self.path / "evaluation.json", _json(evaluation))


class FollowedRun(Run):
    """A run that another process writes: what this one changes of it stays in memory, and no file need be there."""

    def __init__(self, path: Path, manifest: dict[str, Any], model: Any = None):
        self.path, self.model, self.manifest = path, model, manifest

    def update(self, **changes: Any) -> None:
        self.manifest.update(changes)

    def save_evaluation(self, evaluation: dict[str, Any]) -> None:
        pass

    def _is_held(self) -> bool:
        return True


@contextmanager
def followed_run(
    path: Path, manifest: dict[str, Any], model: Any, resume: Callable[[Any], ResumePoint] | None = None
) -> Iterator[Run]:
    """The run at `path` that another process starts, or resumes; `resume` as in `resumed_run`."""
    if resume is not None:
        resume(model)
    yield FollowedRun(path, {"status": "running", **manifest}, model)


@contextmanager
def started_run(path: Path, manifest: dict[str, Any], model: Any = None) -> Iterator[Run]:
    """A new run at `path`, held by this process alone; its run.json tells how what happens inside ends.

    Raises RunError where there is a run already, another process is at it, or nothing can be written.
    """
    with _held(path):
        free_run_path(path)
        write_file(path / "run.json", _json({"status": "running", "started": now(), **manifest}))
        with _told(Run(path, model)) as run:
            yield run


@contextmanager
def resumed_run(
    path: Path, manifest: dict[str, Any], model: Any, resume: Callable[[Any], ResumePoint]
) -> Iterator[Run]:
    """The run at `path`, going on; run.json keeps when and with what it began. Raises RunError as `started_run`.

    resume: puts a checkpoint into the model; what it refuses leaves the run as it was.
    """
    with _held(path):
        run = Run(path, model)
        point = resume(model)
        if not point.step and run.had_checkpoints:
            raise RunError(f"run {path}: has no intact checkpoint to go on from; train anew, into another directory")
        kept = ("versions", "machine", "processes", "engine", "precision", "command")
        before = {key: run.manifest.get(key) for key in kept}
        earlier = [*(run.recorded("earlier", list) or []), {**before, "ended": run.manifest.get("ended")}]
        run.update(**manifest, status="running", resumed=now(), earlier=earlier)
        with _told(run):
            yield run


@contextmanager
def _told(run: Run) -> Iterator[Run]:
    """Write into run.json how what happens inside ends."""
    begin, before = time.perf_counter(), run.recorded("seconds", float) or 0.0

    def end(status: str, **more: str) -> None:
        try:
            run.update(status=status, ended=now(), seconds=round(before + time.perf_counter() - begin, 1), **more)
        except OSError as error:  # it must not hide why the run ends
            warnings.warn(f"run {run.path}: run.json not written: {error.strerror or error}", stacklevel=2)

    try:
        yield run
    except (KeyboardInterrupt, SystemExit, LostProcess):
        end("interrupted")
        raise
    except BaseException as error:
        end("failed", error=f"{type(error).__name__}: {error}")
        raise
    run.manifest.pop("error", None)
    end("finished")


def now() -> str:
    """This moment, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


@contextmanager
def _held(path: Path) -> Iterator[None]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise RunError(f"run {path}: another process is writing to it; wait, or choose another run directory") from None
    except OSError as error:
        raise RunError(f"run {path}: cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_bounded(file, _MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise no_run_at(file.parent, file.name) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise RunError(f"{file}: not a JSON object")
    if not is_fit_to_print(value):
        raise RunError(f"{file}: holds control characters, which command a terminal; no training writes them")
    return value
