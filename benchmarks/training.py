"""Images a second in training and in evaluation: stock Paddle, Paddle as it runs here, and PyTorch.

    python -m benchmarks.training
    python -m benchmarks.training --networks resnet20:128 --contenders stock onednn-bfloat16 torch-bfloat16-nhwc
    python -m benchmarks.training --networks airbench@32:1000 --contenders stock onednn-bfloat16
    python -m benchmarks.training --json > docs/performance.json

Each contender is a process of its own that stays alive; they take turns, round by round, and the table shows medians.
A training step is forward, cross-entropy, backward and Momentum with Nesterov and weight decay; evaluation is forward
alone. GFLOP/s count two operations for each multiply-add of convolutions and linear layers, and a training step as
three forward passes.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, STOCK, TORCH_PYTHON, start
from benchmarks.pixels import labelled_images
from benchmarks.saved_batches import save_images
from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.timing import Spread
from benchmarks.worker import Unavailable, Worker, round_robin, warn_if_busy
from cifar_hapi.data.normalisation import channel_statistics, normalise

NETWORKS = ("resnet20:128", "resnet18:64", "resnet18:128", "resnet56:128")
WORKS = {"training": 3, "evaluation": 1}  # in forward passes
IMAGES = 1024

Row = dict[str, Any]


def main() -> None:
    arguments = parse_arguments()
    warn_if_busy()
    versions: dict[str, str] = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        source = save_pixels(images, IMAGES)
        for network, batch_size in arguments.networks:
            found, on = measure(network, batch_size, images, arguments)
            print(show(found), file=sys.stderr)
            rows += found
            versions |= on
    settings = {
        "images": source,
        "eval_batch_size": arguments.eval_batch_size,
        "rounds": arguments.rounds,
        "seconds_a_turn": arguments.seconds,
    }
    about = f"{machine_line(versions)}; images of {source}, evaluation in batches of {arguments.eval_batch_size}"
    report(f"{show(rows)}\n\n{about}", {"versions": versions, "settings": settings, "rows": rows}, arguments.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--networks",
        nargs="+",
        type=network_and_batch,
        default=[network_and_batch(text) for text in NETWORKS],
        metavar="NAME[@WIDTH]:BATCH",
        help=f"default: {' '.join(NETWORKS)}",
    )
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn; it has a step at least")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each contender in all, at least")
    parser.add_argument("--eval-batch-size", type=int, default=256)
    parser.add_argument("--torch-python", type=Path, default=TORCH_PYTHON, help="a Python that has PyTorch")
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    return parser.parse_args()


def network_and_batch(text: str) -> tuple[str, int]:
    """The parts of "resnet20:128" or "airbench@32:1000", width and all; raises ArgumentTypeError for anything else."""
    name, _, batch_size = text.partition(":")
    if not (re.fullmatch(r"\w+(@\d+)?", name) and batch_size.isdigit() and 0 < int(batch_size) <= IMAGES):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected NAME:BATCH or NAME@WIDTH:BATCH, such as resnet20:128, of up to {IMAGES}"
        )
    return name, int(batch_size)


def measure(
    network: str, batch_size: int, images: Path, arguments: argparse.Namespace
) -> tuple[list[Row], dict[str, str]]:
    """A row for each contender at this network and batch size, and the versions of what they run on."""
    options = ["--network", network, "--batch-size", str(batch_size), "--images", str(images)]
    options += ["--eval-batch-size", str(arguments.eval_batch_size)]
    row = {"network": network, "batch_size": batch_size}
    with ExitStack() as stack:
        workers, missing = start_all(arguments.contenders, arguments.torch_python, options, stack)
        check_same_work({contender: worker.about for contender, worker in workers.items()})
        samples = round_robin(workers, arguments.rounds, arguments.seconds, arguments.steps)
    batch_sizes = {"training": batch_size, "evaluation": arguments.eval_batch_size}
    rows: list[Row] = [
        row
        | {"contender": contender, "title": CONTENDERS[contender].title}
        | (
            {"missing": missing[contender]}
            if contender in missing
            else measured(workers[contender].about, {work: samples[contender, work] for work in WORKS}, batch_sizes)
        )
        for contender in arguments.contenders
    ]
    versions = {name: version for worker in workers.values() for name, version in worker.about["versions"].items()}
    return with_ratios(rows), versions


def start_all(
    contenders: Sequence[str], torch_python: Path, options: list[str], stack: ExitStack
) -> tuple[dict[str, Worker], dict[str, str]]:
    """The workers, which end with `stack`, and of those that can't take part the reason."""
    workers: dict[str, Worker] = {}
    missing: dict[str, str] = {}
    for contender in contenders:
        print(CONTENDERS[contender].title, *options[:4], file=sys.stderr, flush=True)
        try:
            workers[contender] = stack.enter_context(start(contender, torch_python, options))
        except Unavailable as why:
            missing[contender] = str(why)
    return workers, missing


def measured(about: Mapping[str, Any], seconds: Mapping[str, Sequence[float]], batch_sizes: Mapping[str, int]) -> Row:
    """What the table says of one contender, by work."""
    more = {"optimizer": about["optimizer"]} if "optimizer" in about else {}
    return more | {
        work: figures(seconds[work], batch_sizes[work], passes * about["multiply_adds"])
        for work, passes in WORKS.items()
    }


def check_same_work(about: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError unless all contenders have as many parameters and do as many multiply-adds."""
    for key in ("parameters", "multiply_adds"):
        if len({each[key] for each in about.values()}) > 1:
            raise ValueError(f"{key} differ: " + ", ".join(f"{name} {each[key]:,}" for name, each in about.items()))


def figures(seconds: Sequence[float], batch_size: int, multiply_adds: int) -> Row:
    """What a table says of one contender's steps; `multiply_adds` are those of one image in such a step."""
    spread = Spread.of(seconds)
    speed = batch_size / spread.median
    return {
        "images_per_second": speed,
        "gflops": 2e-9 * multiply_adds * speed,
        "median_seconds": spread.median,
        "spread_percent": spread.percent,
        "steps": spread.count,
    }


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Rows of one network with `to_stock` and `to_torch`, the speed by that of stock Paddle and of the best PyTorch."""
    there = [row for row in rows if "missing" not in row]
    found = []
    for row in rows:
        copy = dict(row)
        for work in WORKS if "missing" not in row else ():
            speeds = {each["contender"]: each[work]["images_per_second"] for each in there}
            best = max((speed for name, speed in speeds.items() if name.startswith("torch")), default=None)
            stock, speed = speeds.get(STOCK), speeds[row["contender"]]
            copy[work] = row[work] | {
                "to_stock": speed / stock if stock else None,
                "to_torch": speed / best if best else None,
            }
        found.append(copy)
    return found


def show(rows: Sequence[Row]) -> str:
    """The table; spreads are interquartile ranges in percent of the median, steps those of training and evaluation."""
    header = ["network, batch", "contender"]
    for work in ("training", "evaluation"):
        header += [f"{work} images/s", "spread", "GFLOP/s", "x stock", "x PyTorch"]
    return markdown_table([*header, "steps"], [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    cells = [f"{row['network']}, {row['batch_size']}", row["title"]]
    if "missing" in row:
        return [*cells, row["missing"], *[""] * 10]
    for work in WORKS:
        found = row[work]
        cells += [_number(found["images_per_second"]), f"{found['spread_percent']:.0f} %", f"{found['gflops']:.0f}"]
        cells += ["" if found[key] is None else f"{found[key]:.2f}" for key in ("to_stock", "to_torch")]
    return [*cells, f"{row['training']['steps']} + {row['evaluation']['steps']}"]


def _number(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"


def save_pixels(path: Path, count: int) -> str:
    """Write `count` labelled images, normalised, to `path` for `load_batches`; where they are from."""
    source, found = labelled_images(count)
    save_images(path, normalise(found.images, *channel_statistics(found.images), "NCHW"), found.labels)
    return source


if __name__ == "__main__":
    main()
