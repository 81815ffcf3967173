"""Training by one process with two threads beside two processes with one thread each, and how that would go on.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --networks resnet20:128 --precision bfloat16
    python -m benchmarks.scaling --json > docs/scaling.json

The batch is that of all processes together, so both do the same training on the same two cores. They take turns, round
by round, and the first table shows medians. The time of the all-reduces is taken around the calls in the first
process, so it has the waiting for the other one in it.

The second table is computed: a ring of n workers, each with as many images as one of the two processes here, sends
2 (n - 1) / n times the bytes of a step from every worker; at the break-even bandwidth that takes as long as computing
does, if nothing overlaps and each message arrives at once.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.pixels import labelled_images
from benchmarks.saved_batches import save_images
from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.timing import Spread
from benchmarks.training import IMAGES, network_and_batch
from benchmarks.worker import Worker, round_robin, warn_if_busy
from cifar_hapi.data.normalisation import channel_statistics, normalise

NETWORKS = ("resnet20:128", "resnet18:128")
ALONE, TOGETHER = "one process, two threads", "two processes, one thread each"
WORKERS = (8, 64)

Row = dict[str, Any]


def main() -> None:
    arguments = parse_arguments()
    warn_if_busy()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        source, found = labelled_images(IMAGES)
        save_images(images, normalise(found.images, *channel_statistics(found.images), "NCHW"), found.labels)
        for network, batch_size in arguments.networks:
            measured, versions = measure(network, batch_size, images, arguments)
            rows += measured
    computed = [row for each in rows if each["contender"] == TOGETHER for row in break_even(each)]
    about = f"{machine_line(versions)}; images of {source}, engine oneDNN, {arguments.precision}"
    about += ", synchronised batch norm" if arguments.sync_batch_norm else ""
    text = f"{show(rows)}\n\nComputed from that, not measured:\n\n{show_break_even(computed)}\n\n{about}"
    settings = {"images": source, "precision": arguments.precision, "rounds": arguments.rounds}
    settings["sync_batch_norm"] = arguments.sync_batch_norm
    report(text, {"versions": versions, "settings": settings, "rows": rows, "computed": computed}, arguments.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--networks",
        nargs="+",
        type=network_and_batch,
        default=[network_and_batch(text) for text in NETWORKS],
        metavar="NAME:BATCH",
        help=f"default: {' '.join(NETWORKS)}",
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--sync-batch-norm", action="store_true", help="batch norm over both processes' images")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn; it has a step at least")
    parser.add_argument("--steps", type=int, default=14, help="timed steps of each contender in all, at least")
    parser.add_argument("--json", action="store_true", help="print JSON, and the tables on standard error")
    return parser.parse_args()


def measure(
    network: str, batch_size: int, images: Path, arguments: argparse.Namespace
) -> tuple[list[Row], dict[str, str]]:
    """A row for each way to train this network, and the versions of what they run on."""
    command = [sys.executable, "-m", "benchmarks.scaling_worker", "--network", network, "--images", str(images)]
    command += ["--batch-size", str(batch_size), "--precision", arguments.precision]
    command += ["--sync-batch-norm"] if arguments.sync_batch_norm else []
    with ExitStack() as stack:
        workers = {}
        for contender, environment in ((ALONE, {"MKL_NUM_THREADS": "2"}), (TOGETHER, first_of_two())):
            print(network, contender, file=sys.stderr, flush=True)
            workers[contender] = stack.enter_context(Worker(command, environment))
        samples = round_robin(workers, arguments.rounds, arguments.seconds, arguments.steps)
    rows = []
    for contender, worker in workers.items():
        row = {"network": network, "batch_size": batch_size, "contender": contender, **worker.about}
        rows.append({**row, **figures(samples[contender, "training"], worker.notes, batch_size)})
    return with_ratios(rows), workers[ALONE].about["versions"]


def first_of_two() -> dict[str, str]:
    """The environment of the first of two processes that meet on this machine, as Paddle's launcher makes it."""
    with ExitStack() as stack:
        ports = []
        for found in [stack.enter_context(socket.socket()) for _ in range(3)]:
            found.bind(("127.0.0.1", 0))
            ports.append(found.getsockname()[1])
    master, *endpoints = (f"127.0.0.1:{port}" for port in ports)
    return {
        "PADDLE_MASTER": master,
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[0],
        "PADDLE_TRAINERS_NUM": "2",
        "PADDLE_TRAINER_ID": "0",
        "PADDLE_DISTRI_BACKEND": "gloo",
        "MKL_NUM_THREADS": "1",
    }


def figures(seconds: Sequence[float], notes: Sequence[tuple[float, int]], batch_size: int) -> Row:
    """What the first table says; notes: seconds and bytes of each step's all-reduces."""
    spread = Spread.of(seconds)
    return {
        "images_per_second": batch_size / spread.median,
        "median_seconds": spread.median,
        "spread_percent": spread.percent,
        "all_reduce_seconds": statistics.median(each for each, _ in notes),
        "all_reduce_bytes": max(size for _, size in notes),
        "steps": spread.count,
    }


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Rows of one network with `to_alone`, the speed by that of one process."""
    (alone,) = (row["images_per_second"] for row in rows if row["contender"] == ALONE)
    return [{**row, "to_alone": row["images_per_second"] / alone} for row in rows]


def break_even(row: Row, workers: Sequence[int] = WORKERS) -> list[Row]:
    """For each number of workers, the bandwidth in bit/s at which a step communicates as long as it computes."""
    compute = row["median_seconds"] - row["all_reduce_seconds"]
    found = []
    for count in workers:
        sent = 2 * (count - 1) / count * row["all_reduce_bytes"]
        about = {"network": row["network"], "images_a_worker": row["batch_size"] // row["processes"], "workers": count}
        found.append({**about, "compute_seconds": compute, "bytes_sent": sent, "bits_per_second": 8 * sent / compute})
    return found


def show(rows: Sequence[Row]) -> str:
    """The table; spreads are interquartile ranges in percent of the median, all-reduces also in percent of a step."""
    header = ["network, batch", "on 2 cores", "images/s", "spread", "x 1 process", "step", "all-reduce", "of a step"]
    return markdown_table([*header, "bytes a step", "steps"], [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    share = row["all_reduce_seconds"] / row["median_seconds"]
    return [
        f"{row['network']}, {row['batch_size']}",
        row["contender"],
        f"{row['images_per_second']:,.0f}",
        f"{row['spread_percent']:.0f} %",
        f"{row['to_alone']:.2f}",
        _milliseconds(row["median_seconds"]),
        _milliseconds(row["all_reduce_seconds"]),
        f"{100 * share:.1f} %",
        f"{row['all_reduce_bytes'] / 1e6:.2f} MB",
        str(row["steps"]),
    ]


def show_break_even(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["network", "workers", "images a worker", "a step computes", "a worker sends", "break-even"]
    return markdown_table(
        header,
        [
            [
                row["network"],
                row["workers"],
                row["images_a_worker"],
                _milliseconds(row["compute_seconds"]),
                f"{row['bytes_sent'] / 1e6:.2f} MB",
                f"{row['bits_per_second'] / 1e9:.3f} Gbit/s",
            ]
            for row in rows
        ],
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


if __name__ == "__main__":
    main()
