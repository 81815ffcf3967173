"""The optimiser's update alone: Momentum and AdamW as recipes get them, as stock Paddle's, and as PyTorch's fast forms.

    python -m benchmarks.optimizer

Gradients are there already and stay; a step changes all parameters of the network. Contenders take turns, and the table
shows medians.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.contenders import TORCH_PYTHON, start_torch
from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.timing import Spread
from benchmarks.worker import Samples, Step, Unavailable, Worker, round_robin, serve, warn_if_busy

NETWORKS = ("resnet20", "resnet18")
RULES = ("momentum", "adamw")
CONTENDERS = {
    "stock": "stock Paddle",
    "recipe": "build_optimizer",
    "foreach": "PyTorch, foreach",
    "fused": "PyTorch, fused",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn")
    parser.add_argument("--torch-python", type=Path, default=TORCH_PYTHON, help="a Python that has PyTorch")
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    parser.add_argument("--serve", choices=("stock", "recipe"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(lambda: prepare(arguments.networks, stock=arguments.serve == "stock"))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    warn_if_busy()
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for contender, title in CONTENDERS.items():
            print(title, file=sys.stderr, flush=True)
            try:
                workers[contender] = stack.enter_context(_start(contender, arguments))
            except Unavailable as why:
                missing[contender] = str(why)
        for worker in workers.values():
            versions |= worker.about["versions"]
        samples = round_robin(workers, arguments.rounds, arguments.seconds, at_least=7)
    rows = measured_rows(samples)
    text = f"{show(rows, arguments.networks, missing)}\n\n{machine_line(versions)}"
    report(text, {"versions": versions, "rows": rows, "missing": missing}, arguments.json)


def measured_rows(samples: Samples) -> list[dict[str, Any]]:
    rows = []
    for (contender, work), seconds in samples.items():
        network, rule = work.split()
        spread = Spread.of(seconds)
        found = {"milliseconds": 1e3 * spread.median, "spread_percent": spread.percent, "steps": spread.count}
        rows.append({"network": network, "rule": rule, "contender": contender, **found})
    return rows


def show(rows: list[dict[str, Any]], networks: list[str], missing: dict[str, str]) -> str:
    cells = {
        (row["network"], row["rule"], row["contender"]): f"{row['milliseconds']:.2f} ({row['spread_percent']:.0f} %)"
        for row in rows
    }
    return markdown_table(
        ["ms an update (spread)", *CONTENDERS.values()],
        [
            [f"{network}, {rule}", *(cells.get((network, rule, name), missing.get(name, "")) for name in CONTENDERS)]
            for network in networks
            for rule in RULES
        ],
    )


def prepare(networks: list[str], stock: bool) -> tuple[dict[str, Any], dict[str, Step]]:
    """The updates that recipes get, or Paddle's own in a process without settings."""
    from cifar_hapi.runtime import prepare_process, versions

    if not stock:
        prepare_process()
    import paddle

    from cifar_hapi.networks import build_network

    build = _stock_optimizer if stock else _recipe_optimizer
    works = {}
    for name in networks:
        for rule in RULES:
            network = build_network(name)
            network(paddle.randn([2, 3, 32, 32])).mean().backward()
            works[f"{name} {rule}"] = build(network, rule).step
    return {"versions": versions()}, works


def _stock_optimizer(network: Any, rule: str) -> Any:
    import paddle

    options = {"learning_rate": 1e-4, "parameters": network.parameters(), "weight_decay": 5e-4}
    if rule == "adamw":
        return paddle.optimizer.AdamW(**options)
    return paddle.optimizer.Momentum(momentum=0.9, use_nesterov=True, **options)


def _recipe_optimizer(network: Any, rule: str) -> Any:
    from cifar_hapi.optimizer import build_optimizer
    from cifar_hapi.recipe import OptimizerRecipe, ScheduleRecipe

    recipe = OptimizerRecipe(name=rule, lr=1e-4, nesterov=rule == "momentum", weight_decay=5e-4)
    return build_optimizer(recipe, ScheduleRecipe(), network, steps_per_epoch=100, epochs=1)


def _start(contender: str, arguments: argparse.Namespace) -> Worker:
    networks = ["--networks", *arguments.networks]
    if contender in ("foreach", "fused"):
        options = ["--form", contender, *networks]
        return start_torch(arguments.torch_python, "benchmarks.torch_optimizer_worker", options)
    return Worker([sys.executable, "-m", "benchmarks.optimizer", "--serve", contender, *networks])


if __name__ == "__main__":
    main()
