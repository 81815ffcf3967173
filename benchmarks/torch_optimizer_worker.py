"""PyTorch's updates, measured on request; a child of benchmarks.optimizer."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.torch_worker import import_torch
from benchmarks.worker import Step, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", required=True)
    parser.add_argument("--form", choices=("foreach", "fused"), required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    serve(lambda: prepare(arguments.networks, arguments.form, arguments.threads))


def prepare(networks: list[str], form: str, threads: int) -> tuple[dict[str, Any], dict[str, Step]]:
    torch = import_torch(threads)
    from benchmarks.torch_networks import build_network

    rules = {
        "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        "adamw": (torch.optim.AdamW, {}),
    }
    works = {}
    for name in networks:
        for rule, (kind, options) in rules.items():
            network = build_network(name)
            optimizer = kind(network.parameters(), lr=1e-4, weight_decay=5e-4, **options, **{form: True})
            network(torch.randn(2, 3, 32, 32)).mean().backward()
            works[f"{name} {rule}"] = optimizer.step
    return {"versions": {"torch": torch.__version__}}, works


if __name__ == "__main__":
    main()
