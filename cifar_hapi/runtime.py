"""The process that trains: its threads, allocator, device, random state. Nothing else touches the environment."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn

from platformdirs import user_cache_path

from cifar_hapi.errors import RecipeError
from cifar_hapi.hardware import cpu, usable_cores

Moment = Literal["Paddle loads", "the first matrix product", "any time"]
State = Literal["applied", "set in the environment", "too late", "not needed", "refused", "open"]


@dataclass(frozen=True)
class Setting:
    """Something about this process by which Paddle gains, and how it stands now.

    name: of the environment variable or mallopt(3) parameter. value: what is wanted here. why: what `state` rests on.
    until: when it can be applied at the latest. effect: one sentence; its numbers are from 2 cores of an AMD EPYC.
    state: "open" is what `apply_settings` would apply; what the user has set in the environment always wins.
    """

    name: str
    value: str
    state: State
    why: str
    until: Moment
    effect: str
    apply: Callable[[], bool] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, str]:
        return {key: getattr(self, key) for key in ("name", "value", "state", "why", "until", "effect")}


def prepare_process() -> None:
    """Make the settings of the process, and load Paddle; for the command line only.

    benchmarks/process_settings.py measures what this gains. Raises ImportError where Paddle isn't installed.
    """
    if "paddle" in sys.modules:
        raise RuntimeError("prepare_process() must run before paddle is imported")
    require_paddle()
    apply_settings()
    with _quiet_end():
        import paddle  # noqa: F401


@contextmanager
def _quiet_end() -> Iterator[None]:
    """SIGTERM, also one that comes within it, ends this process without a word, for good.

    Paddle, as it loads, has it print a trace of C++ instead. Alone, the process leaves by SystemExit(143), so that
    what it has half written is taken away; one of several may wait for another one in C++, and dies at once.
    """
    masks = hasattr(signal, "pthread_sigmask")
    before = signal.getsignal(signal.SIGTERM)
    if masks:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if "PADDLE_TRAINER_ID" in os.environ else _leave)
        else:
            signal.signal(signal.SIGTERM, before)
        if masks:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _leave(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def require_paddle() -> None:
    """Raise ImportError, which says what to install, where there is no Paddle."""
    if find_spec("paddle") is None:
        raise ImportError(
            "cifar-hapi needs Paddle: pip install 'cifar-hapi[cpu]', or 'cifar-hapi[gpu]' with an NVIDIA GPU"
        )


def apply_settings() -> list[Setting]:
    """Apply what is needed here, not set by the user and not too late, each once a process; how all of it stands."""
    for setting in process_settings():
        if setting.state == "open":
            _outcomes[setting.name] = setting.apply()
    return process_settings()


def process_settings() -> list[Setting]:
    """How each setting stands in this process; changes nothing. In the order in which they must be applied."""
    return [
        _setting(
            "MKL_DEBUG_CPU_TYPE",
            "5",
            needed="the CPU isn't Intel's",
            unneeded=_unless_mkl_is_slow(),
            until="the first matrix product",
            effect="With Paddle's own kernels, matrix products take 0.4 of the time: their MKL of 2019 uses AVX2 too.",
            apply=_set_variable,
        ),
        _setting(
            "MKL_NUM_THREADS",
            str(threads()),
            needed=users_threads() or f"Paddle would use 1 of {usable_cores()} cores",
            unneeded=_unless_x86() or ("" if threads() > 1 else "one thread is what Paddle takes"),
            until="any time",
            effect="With Paddle's own kernels, ResNet-18 trains 1.5 times as fast on idle cores, ResNet-20 no faster.",
            users=("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
            apply=_use_threads,
        ),
        _malloc_setting(
            "M_MMAP_MAX", "0", "Paddle's big tensors get memory that was used before, not fresh, zeroed pages."
        ),
        _malloc_setting("M_TRIM_THRESHOLD", str(2**31 - 1), "Freed memory stays with the process, to be used again."),
        _malloc_setting("M_ARENA_MAX", "1", "All threads share the freed memory."),
        _setting(
            "GLOG_minloglevel",
            "2",
            needed="Paddle talks when it starts",
            until="Paddle loads",
            effect="Paddle prints errors only.",
            apply=_quieten,
        ),
    ]


def slowed_by(settings: list[Setting]) -> str:
    """What to tell the user of a setting that came too late and matters; "" if there is none, or it was told before."""
    late = next((each for each in settings if (each.name, each.state) == ("MKL_DEBUG_CPU_TYPE", "too late")), None)
    if late is None or late.name in _told:
        return ""
    _told.add(late.name)
    return (
        f"slower than need be: {late.name}={late.value} came too late ({late.why}); "
        "set it in the environment, or call fit before other work with Paddle, or use cifar-hapi train"
    )


def threads() -> int:
    """How many threads arithmetic takes: what the environment says, else one for each usable core."""
    said = users_threads().partition("=")[2]
    return int(said) if said else usable_cores()


def data_folders(data_dir: str | None) -> list[Path]:
    """Where an archive is looked for, in order: `data_dir`, $CIFAR_HAPI_DATA, the user's cache folder."""
    named = [data_dir, os.environ.get("CIFAR_HAPI_DATA")]
    return [*(Path(name).expanduser() for name in named if name), cache_folder()]


def missing_data_folder() -> str | None:
    """What is wrong with $CIFAR_HAPI_DATA, where it names a folder that is not there."""
    named = os.environ.get("CIFAR_HAPI_DATA")
    gone = named and not Path(named).expanduser().exists()
    return f"CIFAR_HAPI_DATA={named}: there is no such folder" if gone else None


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
    return {"system": platform.platform(), "cpu": cpu().name, "cores": usable_cores(), "threads": threads()}


def check_device(device: str, processes: int = 1) -> None:
    """Raise RecipeError for a device that cannot be had, or that not each of so many processes can have."""
    _chosen_device(device)
    if processes > 1 and device.startswith("gpu:"):
        raise RecipeError(f"device {device!r}: {processes} processes take a GPU each; say gpu")


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


_MALLOPT = {"M_MMAP_MAX": -4, "M_TRIM_THRESHOLD": -1, "M_ARENA_MAX": -8}  # malloc.h
_outcomes: dict[str, bool] = {}  # of what was applied in this process
_told: set[str] = set()


def _malloc_setting(name: str, value: str, effect: str) -> Setting:
    short = name.removeprefix("M_")
    return _setting(
        name,
        value,
        needed="glibc would give freed memory back",
        unneeded=_unless_glibc(),
        until="any time",
        effect=effect,
        users=(f"MALLOC_{short}_", f"glibc.malloc.{short.lower()}"),
        apply=_call_mallopt,
    )


def _setting(
    name: str,
    value: str,
    *,
    needed: str,
    until: Moment,
    effect: str,
    apply: Callable[[str, str], bool],
    unneeded: str = "",
    users: tuple[str, ...] = (),
) -> Setting:
    """Needed or, unless that is "", unneeded for the reason given; left alone where the user sets one of `users`."""
    said = [f"{each}={_users_value(each)}" for each in users or (name,) if _users_value(each) is not None]
    state: State
    if name in _outcomes:
        state, why = ("applied", needed) if _outcomes[name] else ("refused", "by the C library")
    elif said:
        state, why = "set in the environment", said[0]
    elif unneeded:
        state, why = "not needed", unneeded
    elif until == "Paddle loads" and "paddle" in sys.modules:
        state, why = "too late", "Paddle was loaded before"
    elif until == "the first matrix product" and _mkl_is_loaded():
        state, why = "too late", "Paddle had multiplied matrices before"
    else:
        state, why = "open", needed
    return Setting(name, value, state, why, until, effect, partial(apply, name, value))


def _set_variable(name: str, value: str) -> bool:
    os.environ[name] = value
    return True


def _use_threads(name: str, count: str) -> bool:
    """$OMP_NUM_THREADS would do too, but makes Paddle complain; Paddle's own flag has no effect (2.6.2, 3.3.1)."""
    if "paddle" not in sys.modules:
        return _set_variable(name, count)
    import paddle

    paddle.base.core.set_num_threads(int(count))  # loads MKL, so its variables must be set before
    return True


def _call_mallopt(name: str, value: str) -> bool:
    return bool(ctypes.CDLL(None).mallopt(_MALLOPT[name], int(value)))


def _quieten(name: str, value: str) -> bool:
    warnings.filterwarnings("ignore", message="No ccache found")
    return _set_variable(name, value)


def users_threads() -> str:
    """ "OMP_NUM_THREADS=2", or whichever variable says how many threads the user wants; "" if none does."""
    names = ("FLAGS_paddle_num_threads", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    said = ((name, _users_value(name) or "") for name in names)
    return next((f"{name}={value}" for name, value in said if value.isdecimal() and int(value)), "")


def _users_value(name: str) -> str | None:
    """What the user's environment, or one of glibc's tunables in it, says; None if nothing."""
    if name.startswith("glibc."):
        tunables = dict(each.partition("=")[::2] for each in os.environ.get("GLIBC_TUNABLES", "").split(":"))
        return tunables.get(name)
    value = os.environ.get(name)
    loading = name == "OMP_NUM_THREADS" and value == "1" and "paddle" in sys.modules  # when Paddle itself sets it so
    return None if name in _outcomes or (loading and name not in _first_environment()) else value


@cache
def _first_environment() -> frozenset[str]:
    """The variables that this process was started with."""
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return frozenset(os.environ)
    return frozenset(os.fsdecode(entry.partition(b"=")[0]) for entry in entries)


def _unless_glibc() -> str:
    if platform.system() != "Linux":
        return f"this is {platform.system()}, not Linux"
    return "" if platform.libc_ver()[0] == "glibc" else "this Linux has another C library than glibc"


def _unless_x86() -> str:
    x86 = platform.machine() in ("x86_64", "AMD64")
    return _unless_glibc() or ("" if x86 else f"this is {platform.machine()}, where Paddle has no MKL")


def _unless_mkl_is_slow() -> str:
    here = cpu()
    if elsewhere := _unless_x86():
        return elsewhere
    if here.vendor in ("", "GenuineIntel"):
        return "the CPU is Intel's, which MKL knows" if here.vendor else "/proc/cpuinfo doesn't tell the CPU's maker"
    return "" if "avx2" in here.flags else "the CPU has no AVX2"


def _mkl_is_loaded() -> bool:
    """Paddle loads it for its first matrix product or convolution, and MKL reads its variables once."""
    return b"libmklml" in Path("/proc/self/maps").read_bytes()
