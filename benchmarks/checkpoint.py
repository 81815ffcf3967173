"""What a checkpoint costs: training waits for the copy, a thread writes; beside that, the time of writing those bytes.

    python -m benchmarks.checkpoint

The plain write is one file of as many random bytes, synced to disk; the two take turns in the same folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.timing import Spread, timed
from benchmarks.worker import warn_if_busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; by default where temporary files go")
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    arguments = parser.parse_args()
    warn_if_busy()
    from cifar_hapi.runtime import prepare_process

    prepare_process()
    from cifar_hapi.runtime import versions

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = measure(arguments.network, arguments.rounds, Path(folder))
    text = f"{show(found, arguments.network)}\n\n{machine_line(versions())}"
    report(text, {"versions": versions(), "network": arguments.network, **found}, arguments.json)


def measure(network: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds of the copy, the checkpoint and the plain write, and the size in bytes."""
    import numpy as np
    import paddle

    from callbacks.checkpoint_folder import CheckpointFolder
    from callbacks.training_state import ResumePoint, capture
    from cifar_hapi.loss import CrossEntropy
    from cifar_hapi.model import Model
    from cifar_hapi.networks import build_network

    model = Model(build_network(network, num_classes=10))
    model.prepare(paddle.optimizer.Momentum(0.1, parameters=model.parameters()), CrossEntropy())
    model.train_batch([np.zeros((2, 3, 32, 32), "float32")], [np.zeros(2, "int64")])
    rest: dict[str, Any] = {"metrics": {}, "seed": 0, "random_at_epoch": {}}
    checkpoints = CheckpointFolder(folder / "checkpoints")
    saved = capture(model, {}, ResumePoint(), **rest)
    name = checkpoints.write(0, saved)
    size = sum(file.stat().st_size for file in (checkpoints.path / name).iterdir())
    data = os.urandom(size)
    seconds: dict[str, list[float]] = {"copy": [], "checkpoint": [], "plain": []}
    for step in range(1, rounds + 1):
        seconds["plain"].append(timed(lambda: _write_plainly(folder / "plain", data)))
        seconds["copy"].append(timed(lambda: capture(model, {}, ResumePoint(), **rest)))
        seconds["checkpoint"].append(timed(lambda step=step: checkpoints.write(step, saved)))
        checkpoints.prune(1, set())
        print(f"round {step} of {rounds}", file=sys.stderr, flush=True)
    spreads = {kind: Spread.of(each) for kind, each in seconds.items()}
    ratio = spreads["checkpoint"].median / spreads["plain"].median
    times = {f"{kind}_ms": 1e3 * spread.median for kind, spread in spreads.items()}
    return {"bytes": size, **times, "spreads": {kind: each.percent for kind, each in spreads.items()}, "ratio": ratio}


def show(found: dict[str, Any], network: str) -> str:
    rows = [
        (title, f"{found[f'{kind}_ms']:.0f} ms, spread {found['spreads'][kind]:.0f} %")
        for kind, title in (
            ("copy", "the copy, for which training waits"),
            ("checkpoint", "the checkpoint, written by a thread"),
            ("plain", "as many bytes in one file, synced"),
        )
    ]
    rows.append(("the checkpoint by the plain write", f"{found['ratio']:.2f} times"))
    title = f"{network} with its momentum, {found['bytes'] / 1e6:.1f} MB"
    return f"{markdown_table(['what', 'measured'], rows)}\n\n{title}"


def _write_plainly(file: Path, data: bytes) -> None:
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    file.unlink()


if __name__ == "__main__":
    main()
