"""What all tests share: a cache folder of their own, a small data set, and the way to the real CIFAR-10."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from small_training import small_fit, write_small_cifar

REAL_DATA = Path(os.environ.get("CIFAR_HAPI_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory) -> Path:
    """The user's cache folder and settings are out of reach, for child processes too."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    os.environ.pop("CIFAR_HAPI_DATA", None)
    return folder


@pytest.fixture(autouse=True, scope="session")
def command_is_found() -> None:
    """As in an activated environment; else lines that tell what to type name the path of `cifar-hapi`."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


@pytest.fixture(autouse=True, scope="session")
def signals_are_heeded() -> None:
    """Shells have what runs in the background ignore SIGINT, and nohup SIGHUP; child processes would, too."""
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def small_cifar(tmp_path_factory) -> Path:
    """A folder that holds 600 training and 120 test images in the official format; not to be written to."""
    folder = tmp_path_factory.mktemp("small")
    write_small_cifar(folder)
    return folder


@pytest.fixture(scope="session")
def recorded_run(small_cifar, tmp_path_factory):
    """Two epochs of five steps, with batch norm recorded before and after each; not to be written to."""
    options = {"bn_stats.every_epochs": 1, "bn_stats.probe": 20, "bn_stats.channels": "all", "data.limit": 300}
    return small_fit(small_cifar, tmp_path_factory.mktemp("runs") / "run", batch_size=54, **options)


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    """The folder of the real CIFAR-10; the test is skipped where there is none."""
    if not (REAL_DATA / "cifar-10-batches-py").is_dir():
        pytest.skip("no real CIFAR-10 here (set CIFAR_HAPI_DATA)")
    return REAL_DATA
