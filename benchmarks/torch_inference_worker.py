"""Answers of one network by PyTorch, measured on request; a child of benchmarks.inference."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.inference_worker import worker_parser, works
from benchmarks.torch_worker import import_torch, multiply_adds
from benchmarks.worker import Step, Unavailable, serve


def main() -> None:
    arguments = worker_parser(__doc__).parse_args()
    serve(lambda: prepare(arguments))


def prepare(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Step]]:
    torch = import_torch(arguments.threads)
    from benchmarks.torch_networks import build_network

    if not arguments.network.startswith("resnet") or arguments.network == "resnet50":
        raise Unavailable("not written for PyTorch here")
    torch.manual_seed(0)
    network = build_network(arguments.network).eval().to(memory_format=torch.channels_last)
    about = {
        "versions": {"torch": torch.__version__},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_adds": multiply_adds(network),
    }
    network.eval()  # counting leaves it in training mode

    def answer(images: Any) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(images).to(memory_format=torch.channels_last)).numpy()

    return about, works(answer, arguments.images, arguments.batch_sizes)


if __name__ == "__main__":
    main()
