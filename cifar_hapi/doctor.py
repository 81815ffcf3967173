"""What this machine and this installation look like to the program, and whether training would work."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy
from rich.console import Console
from rich.table import Table

from cifar_hapi._version import __version__
from cifar_hapi.data.archives import CifarName, find_cifar
from cifar_hapi.hardware import cpu, cpu_quota, memory, usable_cores
from cifar_hapi.runtime import (
    Setting,
    apply_settings,
    cache_folder,
    data_folders,
    missing_data_folder,
    require_paddle,
    threads,
)

_SETS: tuple[CifarName, ...] = ("cifar10", "cifar100")
_BUILDS = ("paddlepaddle", "paddlepaddle-gpu")

# Runs in a process of its own: a Paddle that doesn't suit the CPU or the driver may end the process that loads it.
_TRIAL = """
import json, warnings
warnings.filterwarnings("ignore")
import paddle
layer = paddle.nn.Linear(8, 8)
layer(paddle.ones([8, 8])).sum().backward()
assert layer.weight.grad.numpy().tolist() == [[8.0] * 8] * 8, "a gradient is wrong"
cuda = paddle.is_compiled_with_cuda()
gpus = range(paddle.device.cuda.device_count() if cuda else 0)
names = [paddle.device.cuda.get_device_properties(gpu).name for gpu in gpus]
print(json.dumps({"version": paddle.__version__, "cuda": cuda, "gpus": names}))
"""


@dataclass(frozen=True)
class Problem:
    """What is wrong and what to do about it; `stops` tells whether `cifar-hapi train` could not work."""

    what: str
    remedy: str
    stops: bool


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found; `gpus` and `engine` are None where Paddle doesn't work."""

    versions: dict[str, str | None]
    cpu: str
    cores: int
    cpu_quota: float | None
    threads: int
    memory: int | None
    gpus: list[str] | None
    engine: dict[str, Any] | None
    settings: list[Setting]
    data_folders: list[str]
    data: dict[str, str | None]
    cache: dict[str, Any]
    problems: list[Problem]

    @property
    def training_works(self) -> bool:
        return not any(problem.stops for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        fields = {key: value for key, value in vars(self).items() if key not in ("settings", "problems")}
        lists = {
            "settings": [setting.to_dict() for setting in self.settings],
            "problems": [asdict(problem) for problem in self.problems],
        }
        return {"training_works": self.training_works, **fields, **lists}


def examine() -> Diagnosis:
    """Look at the machine, Paddle, the settings of this process (which are made, as for a training) and the data."""
    settings = apply_settings()
    paddle, broken = _try_paddle()
    folders = data_folders(None)
    data: dict[str, str | None] = {name: _first(find_cifar(folder, name) for folder in folders) for name in _SETS}
    cache = {"path": str(cache_folder()), "writable": _is_writable(cache_folder())}
    return Diagnosis(
        versions={
            "cifar-hapi": __version__,
            "paddle": paddle["version"] if paddle else None,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
        cpu=cpu().name,
        cores=usable_cores(),
        cpu_quota=None if cpu_quota() == float("inf") else cpu_quota(),
        threads=threads(),
        memory=memory(),
        gpus=paddle["gpus"] if paddle else None,
        engine=_engine("gpu" if paddle["gpus"] else "cpu") if paddle else None,
        settings=settings,
        data_folders=[str(folder) for folder in folders],
        data=data,
        cache=cache,
        problems=[*broken, *_gpu_problems(paddle), *_thread_problems(settings), *_data_problems(data, cache)],
    )


def show(out: Console, found: Diagnosis) -> None:
    """The whole diagnosis for people, in as many columns as the terminal has."""
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in found.versions.items())
    quota = f"; a quota of {found.cpu_quota:g} CPUs" if found.cpu_quota else ""
    size = f"{found.memory / 2**30:.1f} GiB" if found.memory else "unknown"
    gpus = "unknown" if found.gpus is None else ", ".join(found.gpus) or "none that Paddle sees"
    _section(
        out,
        "machine",
        [
            ("versions", versions),
            ("CPU", found.cpu),
            ("cores", f"{found.cores} usable{quota}; arithmetic takes {found.threads}"),
            ("memory", size),
            ("GPUs", gpus),
            ("engine", _engine_line(found.engine)),
        ],
    )
    _section(
        out,
        "process settings",
        [(each.name, f"{each.value}, {each.state}: {each.why}\n{each.effect}") for each in found.settings],
    )
    cached = "" if found.cache["writable"] else " (cannot be written)"
    _section(
        out,
        "data",
        [
            ("looked for in", "\n".join(found.data_folders)),
            *(
                (name, place or f"not here; this gets it:\ncifar-hapi data fetch {name}")
                for name, place in found.data.items()
            ),
            ("cache folder", found.cache["path"] + cached),
        ],
    )
    show_verdict(out, found)


def show_verdict(out: Console, found: Diagnosis) -> None:
    """The problems, and whether training would work."""
    for problem in found.problems:
        out.print(f"{'error' if problem.stops else 'warning'}: {problem.what}", style="bold yellow")
        out.print(f"  {problem.remedy}")
    out.print("training works here" if found.training_works else "training would not work here", style="bold")


def _try_paddle() -> tuple[dict[str, Any] | None, list[Problem]]:
    """What Paddle says of itself in a process of its own, None if it cannot; and what is wrong with it."""
    try:
        require_paddle()
    except ImportError as error:
        return None, [Problem("Paddle is not installed", str(error), stops=True)]
    problems = []
    builds = sorted({name for each in distributions() if (name := each.metadata["Name"]) in _BUILDS})
    if len(builds) > 1:
        what = f"both {' and '.join(builds)} are installed, and have overwritten each other's files"
        remedy = f"pip uninstall -y {' '.join(builds)}, then pip install 'cifar-hapi[cpu]' or 'cifar-hapi[gpu]'"
        problems.append(Problem(what, remedy, stops=True))
    trial = subprocess.run([sys.executable, "-c", _TRIAL], capture_output=True, text=True, check=False)
    if trial.returncode == 0:
        return json.loads(trial.stdout.splitlines()[-1]), problems
    remedy = "pip install --force-reinstall paddlepaddle, in an environment of its own if that does not help"
    return None, [*problems, Problem(f"Paddle does not work: {_last_words(trial)}", remedy, stops=True)]


def _last_words(trial: subprocess.CompletedProcess[str]) -> str:
    if trial.returncode < 0:
        return f"it ended the process with {signal.Signals(-trial.returncode).name}"
    return (trial.stderr.strip().splitlines() or [f"exit code {trial.returncode}"])[-1]


def _engine(device: str) -> dict[str, Any]:
    """What `engine = "auto"` takes on `device` for a network that the oneDNN engine knows."""
    from cifar_hapi.engine import onednn_availability

    found = onednn_availability(device)
    auto = "onednn" if found.usable else "native"
    return {"auto": auto, "why": found.why, "native_bfloat16": found.native_bfloat16}


def _engine_line(engine: dict[str, Any] | None) -> str:
    if engine is None:
        return "unknown"
    bfloat16 = "" if engine["auto"] == "native" else f"; bfloat16 {'' if engine['native_bfloat16'] else 'not '}native"
    return f"auto takes {engine['auto']} ({engine['why']}){bfloat16}"


def _gpu_problems(paddle: dict[str, Any] | None) -> Iterator[Problem]:
    if paddle is None or paddle["gpus"]:
        return
    if paddle["cuda"]:
        what = "Paddle is the GPU build and sees no GPU; it trains on the CPU"
        yield Problem(what, "look at nvidia-smi: the driver, or CUDA_VISIBLE_DEVICES", stops=False)
    elif _has_nvidia_gpu():
        remedy = "pip uninstall -y paddlepaddle, then pip install 'cifar-hapi[gpu]'"
        yield Problem("there is an NVIDIA GPU, and Paddle is the CPU build", remedy, stops=False)


def _has_nvidia_gpu() -> bool:
    program = shutil.which("nvidia-smi")
    return program is not None and subprocess.run([program], capture_output=True, check=False).returncode == 0


def _thread_problems(settings: list[Setting]) -> Iterator[Problem]:
    for setting in settings:
        said = setting.name == "MKL_NUM_THREADS" and setting.state == "set in the environment"
        if said and threads() < usable_cores():
            what = f"arithmetic takes {threads()} of {usable_cores()} cores: {setting.why}"
            yield Problem(what, f"unset {setting.why.partition('=')[0]} to use them all", stops=False)


def _data_problems(data: dict[str, str | None], cache: dict[str, Any]) -> Iterator[Problem]:
    if missing := missing_data_folder():
        yield Problem(missing, "correct it, or unset it", stops=False)
    if not cache["writable"]:
        what = f"the cache folder {cache['path']} cannot be written: nothing can be downloaded or generated"
        remedy = "change its permissions, or set XDG_CACHE_HOME to another folder"
        yield Problem(what, remedy, stops=data["cifar10"] is None)
    if not _is_writable(Path("runs")):
        what = f"{Path('runs').absolute()} cannot be written: no run can be kept there"
        yield Problem(what, "change to another folder, or name one with --run-dir", stops=True)


def _first(found: Iterable[Path | None]) -> str | None:
    return next((str(path) for path in found if path is not None), None)


def _is_writable(folder: Path) -> bool:
    """Whether files can be put into `folder`, which need not exist yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _section(out: Console, title: str, rows: list[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=18)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(title, style="bold")
    out.print(table)
    out.print()
