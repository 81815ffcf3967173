"""How the time of a step and of an epoch grows: with the batch, the depth, the images and the threads.

    python -m benchmarks.growth
    python -m benchmarks.growth --engine native --precision float32

Each table has the median times and, for what should grow in a straight line, that line and its R squared.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.timing import Spread, straight_line
from benchmarks.worker import Step, Unavailable, Worker, round_robin, serve, warn_if_busy

QUANTITIES = {
    "batch": "images a batch, resnet20",
    "depth": "layers, ResNet at batch {batch_size}",
    "images": "images an epoch of Model.fit, resnet20 at batch {batch_size}",
    "threads": "threads, resnet20 at batch {batch_size}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 64, 96, 128, 192, 256])
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 32, 44, 56])
    parser.add_argument("--image-counts", type=int, nargs="+", default=[1280, 2560, 5120, 7680])
    parser.add_argument("--batch-size", type=int, default=128, help="where the batch is not what grows")
    parser.add_argument("--engine", choices=("native", "onednn"), default="onednn")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn; it has a step at least")
    parser.add_argument("--json", action="store_true", help="print JSON, and the tables on standard error")
    parser.add_argument("--serve", choices=("sizes", "threads"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(lambda: prepare(arguments))
        return
    try:
        measure(arguments)
    except Unavailable as why:
        sys.exit(f"engine {arguments.engine}, {arguments.precision}: {why}")


def measure(arguments: argparse.Namespace) -> None:
    from cifar_hapi.runtime import usable_cores

    warn_if_busy()
    with ExitStack() as stack:
        sizes = stack.enter_context(_start("sizes"))
        workers = {"sizes": sizes}
        for count in range(1, usable_cores() + 1):
            workers[f"threads {count}"] = stack.enter_context(_start("threads", FLAGS_paddle_num_threads=str(count)))
        samples = round_robin(workers, arguments.rounds, arguments.seconds, at_least=7)
    points: dict[str, list[tuple[int, Spread]]] = {quantity: [] for quantity in QUANTITIES}
    for (worker, work), seconds in samples.items():
        quantity, value = (worker if worker.startswith("threads") else work).split()
        points[quantity].append((int(value), Spread.of(seconds)))
    found = [growth(quantity, of) for quantity, of in points.items()]
    title = f"engine {arguments.engine}, {arguments.precision}"
    text = "\n\n".join([show(each, arguments.batch_size) for each in found])
    settings = {"engine": arguments.engine, "precision": arguments.precision, "batch_size": arguments.batch_size}
    versions = sizes.about["versions"]
    report(
        f"{text}\n\n{title}; {machine_line(versions)}",
        {"versions": versions, "settings": settings, "growth": found},
        arguments.json,
    )


def growth(quantity: str, points: Sequence[tuple[int, Spread]]) -> dict[str, Any]:
    """The times of one quantity, and the straight line through them where there are three or more.

    More threads should take less: there the line is over 1 / threads, its slope the part that is shared among them.
    """
    found: dict[str, Any] = {
        "quantity": quantity,
        "points": [
            {"value": value, "seconds": spread.median, "spread_percent": spread.percent, "steps": spread.count}
            for value, spread in points
        ],
    }
    if len(points) < 3:
        return found
    x = [1 / value if quantity == "threads" else value for value, _ in points]
    line = straight_line(x, [spread.median for _, spread in points])
    return found | {"intercept": line.intercept, "slope": line.slope, "r_squared": line.r_squared}


def show(found: dict[str, Any], batch_size: int) -> str:
    points, quantity = found["points"], found["quantity"]
    first = points[0]
    rows = [
        [
            f"{point['value']:,}",
            f"{1e3 * point['seconds']:,.1f}",
            f"{point['spread_percent']:.0f} %",
            f"{point['seconds'] / first['seconds']:.2f}",
        ]
        for point in points
    ]
    table = markdown_table(
        [QUANTITIES[quantity].format(batch_size=batch_size), "ms", "spread", "times the first"], rows
    )
    if "slope" not in found:
        return table
    unit = "1 / threads" if quantity == "threads" else quantity
    line = f"{1e3 * found['intercept']:.1f} ms + {1e3 * found['slope']:.4g} ms x {unit}"
    return f"{table}\n\n{line}, R squared {found['r_squared']:.4f}"


def _start(what: str, **environment: str) -> Worker:
    print(f"{what} {' '.join(environment.values())}", file=sys.stderr, flush=True)
    return Worker([sys.executable, "-m", "benchmarks.growth", *sys.argv[1:], "--serve", what], environment)


def prepare(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Step]]:
    from cifar_hapi.runtime import prepare_process, versions

    prepare_process()
    from benchmarks.pixels import labelled_images

    if arguments.serve == "threads":
        image_set = labelled_images(4 * arguments.batch_size)[1]
        return {"versions": versions()}, {"step": _step(arguments, image_set, "resnet20", arguments.batch_size)}
    _, image_set = labelled_images(max(*arguments.image_counts, 4 * max(arguments.batch_sizes)))
    works = {f"batch {size}": _step(arguments, image_set, "resnet20", size) for size in arguments.batch_sizes}
    works |= {
        f"depth {depth}": _step(arguments, image_set, f"resnet{depth}", arguments.batch_size)
        for depth in arguments.depths
    }
    works |= {f"images {count}": _epoch(arguments, image_set, count) for count in arguments.image_counts}
    return {"versions": versions()}, works


def _step(arguments: argparse.Namespace, image_set: Any, network: str, batch_size: int) -> Step:
    """A training step in memory."""
    from benchmarks.paddle_worker import training_step

    loader = _loader(image_set, batch_size)
    return training_step(_model(arguments, network), list(itertools.islice(loader, 4)))


def _epoch(arguments: argparse.Namespace, image_set: Any, count: int) -> Step:
    """A whole epoch of `Model.fit` over the first `count` images."""
    import numpy as np

    model, loader = _model(arguments, "resnet20"), _loader(image_set.take(np.arange(count)), arguments.batch_size)
    return lambda: model.fit(loader, epochs=1, verbose=0)


def _model(arguments: argparse.Namespace, network: str) -> Any:
    from benchmarks.paddle_worker import prepared_model
    from cifar_hapi.networks import build_network

    return prepared_model(build_network(network), arguments.engine, arguments.precision)


def _loader(image_set: Any, batch_size: int) -> Any:
    from cifar_hapi.data.loader import BatchLoader
    from cifar_hapi.data.normalisation import channel_statistics

    mean, std = channel_statistics(image_set.images)
    return BatchLoader(image_set, batch_size, mean=mean, std=std, shuffle=True)


if __name__ == "__main__":
    main()
