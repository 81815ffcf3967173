"""What surrounds the steps: Model.fit with its callbacks and the real loader, the first step, the start, the memory.

    python -m benchmarks.loop
    python -m benchmarks.loop --engine native --precision float32

The overhead compares `cifar_hapi.fit` (loader with augmentation, metrics, all default callbacks, the bar drawn as on a
terminal) with a bare loop of forward, loss, backward and update over batches in memory: ten steps of the one, ten of
the other, and so on, in one process.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.timing import Spread, timed
from benchmarks.worker import Unavailable, clean_environment, run_child, warn_if_busy
from cifar_hapi.data.archives import find_cifar
from cifar_hapi.runtime import data_folders

BLOCK = 10  # steps of fit, then as many of the bare loop
EPOCH_STEPS = 390  # of 128 images in the 50,000 of CIFAR-10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", help="of the overhead and the first step")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=61, help="of an epoch: one, and blocks of ten")
    parser.add_argument("--rounds", type=int, default=7, help="of the overhead; starts are measured as often")
    parser.add_argument("--memory-network", default="resnet18")
    parser.add_argument("--engine", choices=("native", "onednn"), default="onednn")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    parser.add_argument("--measure", choices=CHILDREN, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        try:
            found = CHILDREN[arguments.measure](arguments)
        except Unavailable as why:
            sys.exit(f"engine {arguments.engine}, {arguments.precision}: {why}")
        Path(os.environ["RESULT"]).write_text(json.dumps(found), encoding="utf-8")
        return
    warn_if_busy()
    found = {
        "overhead": measure_in_child("overhead"),
        "start": measure_starts(arguments.rounds),
        "memory": measure_in_child("memory"),
    }
    settings = {"network": arguments.network, "batch_size": arguments.batch_size, "data": data_source()}
    settings |= {
        "memory_network": arguments.memory_network,
        "engine": arguments.engine,
        "precision": arguments.precision,
    }
    versions = found["overhead"].pop("versions")
    text = f"{show(found, settings)}\n\n{machine_line(versions)}"
    report(text, {"versions": versions, "settings": settings, **found}, arguments.json)


def data_source() -> str:
    """CIFAR-10 where it can be had without a download, else the generated set."""
    return "cifar10" if any(find_cifar(folder, "cifar10") for folder in data_folders(None)) else "synthetic"


def measure_in_child(what: str) -> dict[str, Any]:
    """What a fresh process with this one's options finds."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        # FORCE_COLOR: rich takes its output for a terminal, so that the bar is drawn and its cost is in.
        environment = clean_environment() | {"RESULT": str(result), "FORCE_COLOR": "1", "BEGIN": str(time.time())}
        run_child([sys.executable, "-m", "benchmarks.loop", *sys.argv[1:], "--measure", what], environment)
        return json.loads(result.read_text(encoding="utf-8"))


def measure_starts(rounds: int) -> dict[str, float]:
    """Median seconds from the start of a process, the kinds taking turns."""
    commands = {
        "python": ["-c", "pass"],
        "import cifar_hapi": ["-c", "import cifar_hapi"],
        "cifar-hapi --help": ["-m", "cifar_hapi", "--help"],
    }
    samples: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            samples.setdefault(name, []).append(timed(lambda command=command: run_child([sys.executable, *command])))
        for name, seconds in measure_in_child("first_step").items():
            samples.setdefault(name, []).append(seconds)
    return {name: statistics.median(seconds) for name, seconds in samples.items()}


def show(found: dict[str, Any], settings: dict[str, str]) -> str:
    overhead, start, memory = found["overhead"], found["start"], found["memory"]
    network = f"{settings['network']}, batch {settings['batch_size']}"
    epoch = overhead["epoch_percent"]
    rows = [
        (f"step of the bare loop, {network}", f"{overhead['bare_ms']:.1f} ms, spread {overhead['bare_spread']:.0f} %"),
        ("step of fit", f"{overhead['fit_ms']:.1f} ms, spread {overhead['fit_spread']:.0f} %"),
        ("fit over the bare loop, a step", f"{overhead['step_percent']:+.1f} %"),
        ("once an epoch: checkpoint, history", f"{overhead['once_ms']:.0f} ms"),
        (f"fit over the bare loop, an epoch of {EPOCH_STEPS} steps", f"{epoch:+.1f} %"),
        ("first step of a process", f"{start['first step']:.2f} s"),
        ("start to the first step done, all of train", f"{start['to first step']:.2f} s"),
        ("cifar-hapi --help", f"{start['cifar-hapi --help']:.2f} s"),
        ("import cifar_hapi", f"{start['import cifar_hapi']:.2f} s (python alone {start['python']:.2f} s)"),
        (
            f"peak memory, {settings['memory_network']}, batch {settings['batch_size']}",
            f"{memory['peak_mib']:,.0f} MiB, {memory['before_mib']:,.0f} with data and network before the first step",
        ),
    ]
    title = f"engine {settings['engine']}, {settings['precision']}, images of {settings['data']}"
    return f"{markdown_table(['what', 'measured'], rows)}\n\n{title}"


def measure_overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times of a step in fit and in the bare loop, and what fit does once an epoch; the first epochs warm up.

    The overhead is the median over pairs of neighbouring blocks: a shared machine changes its speed by more than that.
    """
    _prepare()
    from cifar_hapi.runtime import versions

    bare = _bare_loop(arguments)
    fits, bares, once = [], [], []
    bare(2)
    for _ in range(arguments.rounds):
        clock = _fit_once(arguments, arguments.steps, bare)
        fits += clock.fit_blocks
        bares += clock.bare_blocks
        once.append(clock.once)
    ratio = statistics.median(fit / bare for fit, bare in zip(fits, bares, strict=True))
    spreads = {"bare": Spread.of(bares), "fit": Spread.of(fits)}
    return {
        "versions": versions(),
        "bare_ms": 1e3 * spreads["bare"].median,
        "bare_spread": spreads["bare"].percent,
        "fit_ms": 1e3 * spreads["fit"].median,
        "fit_spread": spreads["fit"].percent,
        "blocks": len(fits),
        "step_percent": 100 * (ratio - 1),
        "once_ms": 1e3 * statistics.median(once),
        "epoch_percent": 100 * (ratio - 1 + statistics.median(once) / (EPOCH_STEPS * spreads["bare"].median)),
    }


def measure_first_step(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of the first step, and from this process's start until it is done, with all images loaded."""
    begin = float(os.environ["BEGIN"])
    _prepare()
    clock = _fit_once(arguments, None, stop_after_first=True)
    return {"first step": clock.first_step, "to first step": time.time() - begin}


def measure_memory(arguments: argparse.Namespace) -> dict[str, float]:
    """Peak resident MiB of a few steps of training and of an evaluation, with all images loaded."""
    _prepare()
    from benchmarks.paddle_worker import switch_engine
    from cifar_hapi.building import build_training
    from cifar_hapi.data.sources import open_data

    recipe = _recipe(arguments, arguments.memory_network).with_overrides({"data.val_fraction": 0.02})
    data = open_data(recipe.data, recipe.seed)
    model, loaders = build_training(recipe, data)
    switch_engine(model.network, arguments.engine, arguments.precision)
    before = _peak_mib()
    model.fit(*loaders, initial_epoch=1, num_iters=3, verbose=0)  # what the first epoch needs, the others do, and more
    return {"before_mib": before, "peak_mib": _peak_mib()}


CHILDREN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "overhead": measure_overhead,
    "first_step": measure_first_step,
    "memory": measure_memory,
}


def _prepare() -> None:
    from cifar_hapi.runtime import prepare_process

    prepare_process()


def _recipe(arguments: argparse.Namespace, network: str) -> Any:
    from cifar_hapi.recipe import Recipe

    overrides = {
        "data.source": data_source(),
        "data.val_fraction": 0.0,
        "network.name": network,
        "batch_size": arguments.batch_size,
        "engine": arguments.engine,
        "precision": arguments.precision,
        "epochs": 2,
        "optimizer.lr": 1e-3,
        "optimizer.nesterov": True,
    }
    return Recipe.load("resnet20", overrides | {"schedule.name": "constant", "schedule.milestones": []})


class _Enough(Exception):
    """Ends a fit after its first step."""


def _fit_once(
    arguments: argparse.Namespace,
    steps: int | None,
    bare: Callable[[int], float] | None = None,
    stop_after_first: bool = False,
) -> Any:
    """The clock of two epochs of `cifar_hapi.fit`, of `steps` steps (None: all), with blocks of `bare` in the second.

    The first epoch of a set is not like the others: its crops and flips are made batch by batch.
    """
    from paddle.callbacks import Callback

    from cifar_hapi.training import fit

    class Clock(Callback):
        """Seconds: of the first step, a step of each block of fit and of the bare one after it, the epoch's end."""

        def __init__(self) -> None:
            super().__init__()
            self.first_step, self.once = 0.0, 0.0
            self.fit_blocks: list[float] = []
            self.bare_blocks: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._epoch, self._begin = epoch, time.perf_counter()

        def on_train_batch_end(self, step: int, logs: Any = None) -> None:
            if step == 0 and self._epoch == 0:
                self.first_step = time.perf_counter() - self._begin
                if stop_after_first:
                    raise _Enough
            if step % BLOCK == 0:  # the first step is in no block
                if step and self._epoch and bare is not None:
                    self.fit_blocks.append((time.perf_counter() - self._begin) / BLOCK)
                    self.bare_blocks.append(bare(BLOCK))
                self._begin = time.perf_counter()
            self._last = time.perf_counter()

        def on_train_end(self, logs: Any = None) -> None:
            self.once = time.perf_counter() - self._last

    limit = {} if steps is None else {"data.limit": steps * arguments.batch_size}
    recipe = _recipe(arguments, arguments.network).with_overrides(limit)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Enough):
        fit(recipe, run_dir=Path(folder) / "run", device="cpu", callbacks=[clock])
    return clock


def _bare_loop(arguments: argparse.Namespace) -> Callable[[int], float]:
    """A function that trains for so many steps and returns the seconds of one; nothing but what training needs."""
    import paddle

    from benchmarks.paddle_worker import switch_engine
    from benchmarks.pixels import labelled_images
    from cifar_hapi.data.normalisation import channel_statistics, normalise
    from cifar_hapi.loading import build_declared_network
    from cifar_hapi.loss import build_loss
    from cifar_hapi.optimizer import build_optimizer

    recipe = _recipe(arguments, arguments.network)
    found = labelled_images(4 * arguments.batch_size)[1]
    pixels = normalise(found.images, *channel_statistics(found.images), "NCHW")
    parts = zip(np.split(pixels, 4), np.split(found.labels, 4), strict=True)
    batches = itertools.cycle([(paddle.to_tensor(images), paddle.to_tensor(labels)) for images, labels in parts])
    network = build_declared_network(recipe.network, 10)
    switch_engine(network, arguments.engine, arguments.precision)
    optimizer, loss = build_optimizer(recipe.optimizer, recipe.schedule, network, 100, 1), build_loss(recipe.loss)

    def step() -> None:
        images, labels = next(batches)
        loss(network(images), labels).backward()
        optimizer.step()
        optimizer.clear_grad()

    return lambda count: timed(lambda: [step() for _ in range(count)]) / count


def _peak_mib() -> float:
    """The most memory that this process has had resident."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


if __name__ == "__main__":
    main()
