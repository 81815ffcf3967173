"""Throughput and latency of a network that is only used: Paddle, its inference library, ONNX and PyTorch.

    python -m benchmarks.inference
    python -m benchmarks.inference --networks resnet20 airbench@32 --contenders native onnx-int8
    python -m benchmarks.inference --json > inference.json

Each contender is a process of its own that stays alive; they take turns, round by round, and the table shows medians
and the 99th percentile of all timed answers. An answer begins with a NumPy array, float32 [N, 3, 32, 32], and ends with
one of logits. Weights are fresh: speed does not depend on them. All have as many threads as there are usable cores.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import TORCH_PYTHON, start_torch
from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.timing import Spread
from benchmarks.training import check_same_work, save_pixels
from benchmarks.worker import Unavailable, Worker, round_robin, warn_if_busy
from cifar_hapi.runtime import usable_cores

NETWORKS = ("resnet20", "resnet18", "airbench@32")
BATCH_SIZES = (1, 32, 256)
IMAGES = 1024
TORCH = "torch"

Row = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """One way to get answers, and the options of benchmarks.inference_worker for it."""

    title: str
    options: tuple[str, ...] = ()


CONTENDERS = {
    "native": Contender("Paddle, dygraph"),
    "onednn-float32": Contender("oneDNN engine, float32", ("--engine", "onednn")),
    "onednn-bfloat16": Contender("oneDNN engine, bfloat16", ("--engine", "onednn", "--precision", "bfloat16")),
    "inference": Contender("paddle.inference", ("--program", "inference")),
    "onnx": Contender("ONNX, float32", ("--program", "onnx")),
    "onnx-folded": Contender("ONNX, float32, folded", ("--program", "onnx", "--fold-bn")),
    "onnx-int8": Contender("ONNX, int8", ("--program", "onnx", "--fold-bn", "--precision", "int8")),
    TORCH: Contender("PyTorch, float32, channels-last"),
}


def main() -> None:
    arguments = parse_arguments()
    warn_if_busy()
    versions: dict[str, str] = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        source = save_pixels(images, IMAGES)
        for network in arguments.networks:
            found, on = measure(network, images, arguments)
            rows += found
            versions |= on
    settings = {"images": source, "threads": usable_cores(), "rounds": arguments.rounds, "turn": arguments.seconds}
    about = f"{machine_line(versions)}; images of {source}, threads: {usable_cores()}"
    report(f"{show(rows)}\n\n{about}", {"versions": versions, "settings": settings, "rows": rows}, arguments.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME[@WIDTH]")
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--batch-sizes", nargs="+", type=batch_size, default=list(BATCH_SIZES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn at one batch size")
    parser.add_argument("--answers", type=int, default=7, help="timed ones of each contender and batch size, at least")
    parser.add_argument("--torch-python", type=Path, default=TORCH_PYTHON, help="a Python that has PyTorch")
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    return parser.parse_args()


def batch_size(text: str) -> int:
    if not (text.isdigit() and 0 < int(text) <= IMAGES):
        raise argparse.ArgumentTypeError(f"{text!r}: expected 1 to {IMAGES} images")
    return int(text)


def measure(network: str, images: Path, arguments: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """A row for each contender and batch size, and the versions of what they run on."""
    sizes = arguments.batch_sizes
    options = ["--network", network, "--images", str(images), "--batch-sizes", *map(str, sizes)]
    workers: dict[str, Worker] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        for name in arguments.contenders:
            print(CONTENDERS[name].title, network, file=sys.stderr, flush=True)
            try:
                workers[name] = stack.enter_context(start(name, arguments.torch_python, options))
            except Unavailable as why:
                missing[name] = str(why)
        check_same_work({name: worker.about for name, worker in workers.items()})
        samples = round_robin(workers, arguments.rounds, arguments.seconds, arguments.answers)
    rows: list[Row] = []
    for name in arguments.contenders:
        row = {"network": network, "contender": name, "title": CONTENDERS[name].title}
        if name in missing:
            rows.append(row | {"missing": missing[name]})
            continue
        rows += [row | {"batch_size": size} | figures(samples[name, str(size)], size) for size in sizes]
    versions = {name: version for worker in workers.values() for name, version in worker.about["versions"].items()}
    return rows, versions


def start(name: str, torch_python: Path, options: list[str]) -> Worker:
    """The worker of a contender, warmed up. Raises Unavailable where it can't take part, with the reason."""
    if name == TORCH:
        return start_torch(torch_python, "benchmarks.torch_inference_worker", options)
    command = [sys.executable, "-m", "benchmarks.inference_worker", *CONTENDERS[name].options, *options]
    return Worker([*command, "--threads", str(usable_cores())])


def figures(seconds: Sequence[float], batch: int) -> Row:
    """What the table says of the answers to batches of one size."""
    spread = Spread.of(seconds)
    return {
        "images_per_second": batch / spread.median,
        "p50_ms": 1e3 * spread.median,
        "p99_ms": 1e3 * percentile_99(seconds),
        "spread_percent": spread.percent,
        "answers": spread.count,
    }


def percentile_99(seconds: Sequence[float]) -> float:
    """The shortest time within which 99 % of the answers came; of fewer than 100 that is the longest."""
    return sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, and below it why contenders are absent; answers: how many the percentiles are of."""
    header = ["network", "contender", "batch", "images/s", "p50 ms", "p99 ms", "spread", "answers"]
    absent = [f"{row['network']}, {row['title']}: {row['missing']}" for row in rows if "missing" in row]
    return "\n".join([markdown_table(header, [_cells(row) for row in rows]), *([""] if absent else []), *absent])


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = [row["network"], row["title"]]
    if "missing" in row:
        return [*cells, "", "absent", "", "", "", ""]
    speed = row["images_per_second"]
    return [
        *cells,
        str(row["batch_size"]),
        f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}",
        f"{row['p50_ms']:.2f}",
        f"{row['p99_ms']:.2f}",
        f"{row['spread_percent']:.0f} %",
        f"{row['answers']:,}",
    ]


if __name__ == "__main__":
    main()
