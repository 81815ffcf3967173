"""Training steps of one process, or of two that share each batch, on request; a child of benchmarks.scaling."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.paddle_worker import multiply_adds, parameter_count, prepared_model, training_step
from benchmarks.saved_batches import load_batches
from benchmarks.worker import Step, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", required=True)
    parser.add_argument("--images", type=Path, required=True, help="a file of benchmarks.saved_batches")
    parser.add_argument("--batch-size", type=int, required=True, help="of all processes together")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--sync-batch-norm", action="store_true")
    arguments = parser.parse_args()
    communication = Communication()
    if os.environ.get("PADDLE_TRAINER_ID") == "1":
        _, works = prepare(arguments, communication)
        while sys.stdin.buffer.read(1):  # of the first process: one more step
            works["training"]()
        return
    serve(lambda: prepare(arguments, communication), noted=communication.notes)


def prepare(arguments: argparse.Namespace, communication: Communication) -> tuple[dict[str, Any], dict[str, Step]]:
    """What this process says of itself, and its step; the first of two starts the other one, and has it do the same."""
    from cifar_hapi.runtime import prepare_process

    prepare_process()
    from cifar_hapi.distributed import ranks
    from cifar_hapi.distributed.shares import share
    from cifar_hapi.distributed.sync_batch_norm import synchronise
    from cifar_hapi.networks import build_network
    from cifar_hapi.runtime import threads, versions

    other = start_other() if ranks.count() > 1 and ranks.rank() == 0 else None
    communication.watch()
    network = build_network(arguments.network)
    about = {"versions": versions(), "parameters": parameter_count(network), "multiply_adds": multiply_adds(network)}
    if arguments.sync_batch_norm:
        synchronise(network)
    model = prepared_model(network, "onednn", arguments.precision)
    own = share(arguments.batch_size, ranks.rank(), ranks.count())
    batches = load_batches(arguments.images, arguments.batch_size)
    train = training_step(model, [(images[own], labels[own]) for images, labels in batches])

    def step() -> None:
        if other is not None:
            other.write(b".")
        train()
        communication.note()

    return {**about, "processes": ranks.count(), "threads": threads()}, {"training": step}


def start_other() -> Any:
    """Start the second process; what it reads from: a byte is a step, and the end of this process is its end."""
    command = [sys.executable, "-m", "benchmarks.scaling_worker", *sys.argv[1:]]
    environment = {**os.environ, "PADDLE_TRAINER_ID": "1"}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0).stdin


class Communication:
    """Times `paddle.distributed.all_reduce`, waiting for the other process included, and counts what it is given."""

    def __init__(self) -> None:
        self._seconds, self._bytes = 0.0, 0
        self._noted: list[tuple[float, int]] = []

    def watch(self) -> None:
        from paddle import distributed

        all_reduce = distributed.all_reduce

        def watched(tensor: Any, *arguments: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            result = all_reduce(tensor, *arguments, **named)
            self._seconds += time.perf_counter() - begin
            self._bytes += tensor.size * tensor.element_size()
            return result

        distributed.all_reduce = watched

    def note(self) -> None:
        """A step is over."""
        self._noted.append((self._seconds, int(self._bytes)))
        self._seconds, self._bytes = 0.0, 0

    def notes(self) -> list[tuple[float, int]]:
        """Seconds and bytes of each step since this was called last."""
        noted, self._noted = self._noted, []
        return noted


if __name__ == "__main__":
    main()
