"""Trainings by the command line in which a rank kills itself in the middle of a step; see killing/sitecustomize.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def train_command(data: Path, run: str, options: dict[str, Any], *more: str) -> list[str]:
    settings = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    train = ["train", "quick", "--data-dir", str(data), "--run-dir", run, "--no-report", *settings, *more]
    return [sys.executable, "-m", "cifar_hapi", *train]


def begun(folder: Path, command: list[str], rank: int, step: int) -> subprocess.Popen:
    """The command, in which `rank` kills itself in that step, counted from 1; `folder`/killed is there then."""
    paths = [str(ROOT), str(ROOT / "tests" / "launched" / "killing")]
    killed = {"KILLED": f"{rank} {step} {folder / 'killed'}", "PYTHONPATH": os.pathsep.join(paths)}
    environment = {**os.environ, **killed, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)
