"""The process that trains: its threads, allocator, device, random state. Nothing else touches the environment."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from cifar_hapi.errors import RecipeError

# mallopt(3): keep freed memory instead of giving every large tensor fresh, zeroed pages.
_MALLOC_OPTIONS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_ARENA_MAX": (-8, 1)}


def prepare_process() -> None:
    """Set what Paddle reads when it loads: threads, MKL's dispatch, glibc's allocator; for the command line only.

    What the user has set in the environment stays. benchmarks/process_settings.py measures what this gains.
    """
    if "paddle" in sys.modules:
        raise RuntimeError("prepare_process() must run before paddle is imported")
    # OMP_NUM_THREADS itself is left alone: Paddle complains of any value but 1, and it adds nothing.
    threads = os.environ.get("OMP_NUM_THREADS", str(usable_cores()))
    os.environ.setdefault("FLAGS_paddle_num_threads", threads)
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's own start-up messages
    warnings.filterwarnings("ignore", message="No ccache found")
    if platform.machine() in ("x86_64", "AMD64") and _cpu_vendor() != "GenuineIntel":
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")  # else the wheel's MKL of 2019 takes its slow path
    _keep_freed_memory()


def usable_cores() -> int:
    """How many CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """How many threads arithmetic takes: $FLAGS_paddle_num_threads, else all usable cores."""
    return int(os.environ.get("FLAGS_paddle_num_threads", usable_cores()))  # noqa: SIM112


def data_folders(data_dir: str | None) -> list[Path]:
    """Where an archive is looked for, in order: `data_dir`, $CIFAR_HAPI_DATA, the user's cache folder."""
    named = [data_dir, os.environ.get("CIFAR_HAPI_DATA")]
    return [*(Path(name).expanduser() for name in named if name), cache_folder()]


def cache_folder() -> Path:
    """Where downloads and generated sets are kept: `cifar-hapi` in the user's cache ($XDG_CACHE_HOME on Linux)."""
    return user_cache_path("cifar-hapi", appauthor=False)


@contextmanager
def paddle_session(device: str = "auto", seed: int | None = None) -> Iterator[str]:
    """Paddle on `device` ("auto", "cpu", "gpu", "gpu:1"), random from `seed`; both are put back at the end.

    Yields the name of the device in use. Raises RecipeError for a device that this Paddle or machine doesn't have.
    """
    import paddle

    before_device, before_state = paddle.get_device(), paddle.get_rng_state()
    try:
        paddle.set_device(_chosen_device(device))
        if seed is not None:
            paddle.seed(seed)
        with warnings.catch_warnings():
            # Paddle says so of every batch norm that trains, as if it were news.
            warnings.filterwarnings("ignore", message="When training, we now always track")
            # Paddle says so of every batch that its own Model is handed as tensors.
            warnings.filterwarnings("ignore", message="To copy construct from a tensor")
            yield str(paddle.get_device())
    finally:
        paddle.set_device(before_device)
        paddle.set_rng_state(before_state)


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    import numpy
    import paddle

    from cifar_hapi._version import __version__

    return {
        "cifar-hapi": __version__,
        "paddle": paddle.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def machine() -> dict[str, Any]:
    """What this process runs on, as run.json records it."""
    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "FLAGS_paddle_num_threads") if name in os.environ}
    return {"system": platform.platform(), "cpu": _cpu_name(), "cores": usable_cores(), "threads": threads}


def _chosen_device(device: str) -> str:
    import paddle

    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if device == "auto":
        return "gpu" if gpus else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "gpu") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise RecipeError(f"device {device!r}: expected auto, cpu, gpu or gpu:N")
    if kind == "gpu" and int(number or 0) >= gpus:
        why = f"Paddle sees {gpus} GPUs" if paddle.is_compiled_with_cuda() else "this Paddle is the CPU build"
        raise RecipeError(f"device {device!r}: {why}; use --device cpu, or install cifar-hapi[gpu]")
    return device


def _keep_freed_memory() -> None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for name, (parameter, value) in _MALLOC_OPTIONS.items():
        if f"MALLOC_{name.removeprefix('M_')}_" not in os.environ:
            mallopt(parameter, value)


def _cpu_vendor() -> str:
    return _cpu_field("vendor_id")


def _cpu_name() -> str:
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _cpu_field(name: str) -> str:
    """A field of the first CPU in /proc/cpuinfo; empty where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
