"""What recording batch-norm statistics costs, as a share of training, and how large the records are.

    python -m benchmarks.bn_stats

Each kind of record takes turns with training steps, in one process; a record is synced to the disk. The share is that
of one record an epoch, the default, in an epoch of 390 steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.timing import Spread, timed
from benchmarks.worker import Unavailable, warn_if_busy

EPOCH_STEPS = 390  # of 128 images in the 50,000 of CIFAR-10
KINDS: dict[str, dict[str, Any]] = {
    "summary": {},
    "all channels": {"channels": "all"},
    "summary, probe": {"probe": True},
    "summary, gradients": {"gradients": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--probe", type=int, default=128, help="images of the probe")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engine", choices=("native", "onednn"), default="onednn")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    arguments = parser.parse_args()
    warn_if_busy()
    from cifar_hapi.runtime import prepare_process

    prepare_process()
    from cifar_hapi.runtime import versions

    try:
        found = measure(arguments)
    except Unavailable as why:
        sys.exit(f"engine {arguments.engine}, {arguments.precision}: {why}")
    settings = {name: value for name, value in vars(arguments).items() if name not in ("json", "rounds")}
    text = f"{show(found)}\n\n{title(settings, found)}\n\n{machine_line(versions())}"
    report(text, {"versions": versions(), "settings": settings, **found}, arguments.json)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a training step and of each kind of record, and the bytes of a record."""
    from callbacks.paddle_model import norm_layers

    with tempfile.TemporaryDirectory() as folder:
        model, batch = _model_and_batch(arguments)
        records = {
            kind: _recorder(model, Path(folder) / kind, options, batch, arguments.probe)
            for kind, options in KINDS.items()
        }
        works: dict[str, Callable[[], Any]] = {"step": lambda: model.train_batch(*batch), **records}
        for work in works.values():
            work()
        seconds: dict[str, list[float]] = {kind: [] for kind in works}
        for turn in range(1, arguments.rounds + 1):
            for kind, work in works.items():
                seconds[kind].append(timed(work))
            print(f"round {turn} of {arguments.rounds}", file=sys.stderr, flush=True)
        sizes = {kind: len((Path(folder) / kind).read_bytes().splitlines()[1]) + 1 for kind in KINDS}
    norms = norm_layers(model.network).values()
    spreads = {kind: Spread.of(each) for kind, each in seconds.items()}
    return {
        "layers": len(norms),
        "channels": sum(len(norm.weight) for norm in norms),
        "bytes": sizes,
        "milliseconds": {kind: 1e3 * spread.median for kind, spread in spreads.items()},
        "spreads": {kind: spread.percent for kind, spread in spreads.items()},
        "percent": {kind: 100 * spreads[kind].median / (EPOCH_STEPS * spreads["step"].median) for kind in KINDS},
    }


def show(found: dict[str, Any]) -> str:
    times, spreads = found["milliseconds"], found["spreads"]
    rows = [("a training step", f"{times['step']:.1f} ms, spread {spreads['step']:.0f} %", "", "")]
    for kind in KINDS:
        time = f"{times[kind]:.1f} ms, spread {spreads[kind]:.0f} %"
        rows.append((f"a record: {kind}", time, f"{found['percent'][kind]:.4f} %", f"{found['bytes'][kind]:,}"))
    return markdown_table(["what", "takes", "of an epoch", "bytes"], rows)


def title(settings: dict[str, Any], found: dict[str, Any]) -> str:
    network = f"{settings['network']}: {found['layers']} layers, {found['channels']:,} channels"
    run = f"batch {settings['batch_size']}, engine {settings['engine']}, {settings['precision']}"
    return f"{network}; {run}; {settings['probe']} images to probe"


def _model_and_batch(arguments: argparse.Namespace) -> tuple[Any, tuple[list[Any], list[Any]]]:
    import paddle

    from benchmarks.paddle_worker import switch_engine
    from benchmarks.pixels import labelled_images
    from cifar_hapi.data.normalisation import channel_statistics, normalise
    from cifar_hapi.loss import CrossEntropy
    from cifar_hapi.model import Model
    from cifar_hapi.networks import build_network

    network = build_network(arguments.network, num_classes=10)
    switch_engine(network, arguments.engine, arguments.precision)
    model = Model(network)
    model.prepare(paddle.optimizer.Momentum(1e-3, parameters=network.parameters()), CrossEntropy())
    images = labelled_images(arguments.batch_size)[1]
    pixels = normalise(images.images, *channel_statistics(images.images), "NCHW")
    return model, ([pixels], [images.labels])


def _recorder(
    model: Any, path: Path, options: dict[str, Any], batch: tuple[list[Any], list[Any]], probe: int
) -> Callable[[], None]:
    """A function that writes one record, as after a step."""
    from callbacks import BatchNormStats

    seen = {"probe": batch[0][0][:probe]} if options.get("probe") else {}
    stats = BatchNormStats(path, every_epochs=None, every_steps=1, **{**options, **seen})
    stats.set_model(model)
    stats.set_params({"epochs": 1, "steps": None})
    stats.on_train_begin({})
    stats.on_epoch_begin(0, {})
    if stats.gradients:
        stats.on_train_batch_begin(0, {})
        model.train_batch(*batch)  # whose gradients every record has
    return lambda: stats.on_train_batch_end(0, {})


if __name__ == "__main__":
    main()
