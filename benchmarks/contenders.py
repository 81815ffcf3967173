"""Who is compared: stock Paddle, Paddle as this project runs it, and PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.worker import ROOT, Unavailable, Worker
from cifar_hapi.runtime import usable_cores

TORCH_PYTHON = ROOT / ".venv-torch" / "bin" / "python"


@dataclass(frozen=True)
class Contender:
    """One way to train: the worker module that does it, its options, and what its environment is set to."""

    title: str
    worker: str
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


# glibc keeps freed memory, as `prepare_process` has it do for Paddle; the table says whether PyTorch gains, too.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000000", "MALLOC_ARENA_MAX": "1"}

STOCK = "stock"
CONTENDERS = {
    STOCK: Contender("stock Paddle", "paddle"),
    "native": Contender("Paddle, process settings", "paddle", ("--settings",)),
    "onednn-float32": Contender("oneDNN engine, float32", "paddle", ("--settings", "--engine", "onednn")),
    "onednn-bfloat16": Contender(
        "oneDNN engine, bfloat16", "paddle", ("--settings", "--engine", "onednn", "--precision", "bfloat16")
    ),
    "torch-float32": Contender("PyTorch, float32", "torch"),
    "torch-float32-nhwc": Contender("PyTorch, float32, channels-last", "torch", ("--channels-last",)),
    "torch-bfloat16": Contender("PyTorch, bfloat16", "torch", ("--precision", "bfloat16")),
    "torch-bfloat16-nhwc": Contender(
        "PyTorch, bfloat16, channels-last", "torch", ("--precision", "bfloat16", "--channels-last")
    ),
    "torch-bfloat16-nhwc-malloc": Contender(
        "PyTorch, bfloat16, channels-last, malloc",
        "torch",
        ("--precision", "bfloat16", "--channels-last"),
        KEEP_MEMORY,
    ),
}


def start(name: str, torch_python: Path, options: list[str]) -> Worker:
    """The worker of a contender, warmed up; `options` are those that all contenders get.

    Raises Unavailable where it can't take part, with the reason.
    """
    contender = CONTENDERS[name]
    module, more = f"benchmarks.{contender.worker}_worker", [*contender.options, *options]
    if contender.worker == "paddle":
        return Worker([sys.executable, "-m", module, *more], contender.environment)
    return start_torch(torch_python, module, more, contender.environment)


def start_torch(
    torch_python: Path, module: str, options: list[str], environment: Mapping[str, str] | None = None
) -> Worker:
    """A worker in the Python that has PyTorch, with as many threads as there are usable cores."""
    if not torch_python.exists():
        raise Unavailable("not installed")
    return Worker([str(torch_python), "-m", module, "--threads", str(usable_cores()), *options], environment)
