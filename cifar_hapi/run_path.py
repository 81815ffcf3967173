"""Where runs are, and whether there is one where it is looked for; needs no Paddle."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cifar_hapi.errors import RunError

RUNS = Path("runs")


def is_run(path: str | Path) -> bool:
    return (Path(path) / "run.json").is_file()


def check_run(path: Path | None) -> None:
    """Raise RunError unless there is a run at `path`, or any in `runs/` where it is None."""
    if path is None:
        if not any(map(is_run, RUNS.glob("*"))):
            raise no_run_in(RUNS)
    elif not is_run(path):
        raise no_run_at(path)


def new_run_path(name: str) -> Path:
    """A fresh directory below `runs/` for a run of the recipe `name`: name and local time, numbered if need be."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    candidates = (RUNS / (stem if number == 1 else f"{stem}-{number}") for number in range(1, 1000))
    return next(path for path in candidates if not path.exists())


def free_run_path(path: str | Path) -> Path:
    """`path`, if it holds no run yet; else RunError."""
    if is_run(path):
        raise RunError(
            f"run {path}: exists already; `cifar-hapi resume {path}` (resume=True) goes on with it, "
            "or choose another run directory"
        )
    return Path(path)


def no_run_at(path: Path, file: str = "run.json") -> RunError:
    return RunError(f"{path} is no run: it has no {file}")


def no_run_in(folder: str | Path) -> RunError:
    return RunError(f"no run in {folder}/: train one first (make train, or cifar-hapi train), or name its directory")
