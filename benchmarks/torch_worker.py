"""Training and evaluation of one network with PyTorch, measured on request; a child of benchmarks.training.

PyTorch as its users would have it fast: eager mode, images in memory as tensors of the layout that the network has, the
faster of the two forms of its optimiser, ReLUs and additions in place.
"""

from __future__ import annotations

import argparse
import itertools
import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.saved_batches import load_batches
from benchmarks.timing import Spread, timed
from benchmarks.worker import Step, Unavailable, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", required=True)
    parser.add_argument("--images", type=Path, required=True, help="a file of benchmarks.saved_batches")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--eval-batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    serve(lambda: prepare(arguments))


def prepare(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Step]]:
    torch = import_torch(arguments.threads)
    from benchmarks.torch_networks import build_network

    torch.manual_seed(0)
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    network = build_network(arguments.network).to(memory_format=layout)
    work = _Work(network, layout, torch.bfloat16 if arguments.precision == "bfloat16" else None)
    train, evaluate = (
        itertools.cycle(
            (torch.from_numpy(images).to(memory_format=layout), torch.from_numpy(labels))
            for images, labels in load_batches(arguments.images, size)
        )
        for size in (arguments.batch_size, arguments.eval_batch_size)
    )
    form = work.choose_optimizer(*next(train))
    about = {
        "versions": {"torch": torch.__version__},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_adds": multiply_adds(network),
        "optimizer": form,
    }
    return about, {"training": lambda: work.train(*next(train)), "evaluation": lambda: work.evaluate(next(evaluate)[0])}


def import_torch(threads: int) -> Any:
    """The module `torch`, set to that many threads; raises Unavailable where it is absent."""
    try:
        import torch
    except ModuleNotFoundError:
        raise Unavailable("not installed") from None
    torch.set_num_threads(threads)
    return torch


class _Work:
    """Steps of one network."""

    def __init__(self, network: Any, layout: Any, autocast_to: Any) -> None:
        import torch

        self.torch, self.network, self.layout, self.autocast_to = torch, network, layout, autocast_to
        self.optimizer: Any = None

    def choose_optimizer(self, images: Any, labels: Any) -> str:
        """Take the faster of SGD's two fast forms for this network's parameters; its name."""
        forms = {
            form: self.torch.optim.SGD(
                self.network.parameters(), 1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4, **{form: True}
            )
            for form in ("foreach", "fused")
        }
        self._backward(images, labels)
        seconds = {
            form: Spread.of([timed(optimizer.step) for _ in range(9)][2:]).median for form, optimizer in forms.items()
        }
        fastest = min(seconds, key=seconds.__getitem__)
        self.optimizer = forms[fastest]
        self.optimizer.zero_grad(set_to_none=True)
        return fastest

    def train(self, images: Any, labels: Any) -> None:
        self.network.train()
        loss = self._backward(images, labels)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not math.isfinite(float(loss)):
            raise ArithmeticError(f"the training loss is {float(loss)}: what was measured is no training")

    def evaluate(self, images: Any) -> Any:
        self.network.eval()
        with self.torch.inference_mode(), self._autocast():
            return self.network(images).float().numpy()

    def _backward(self, images: Any, labels: Any) -> Any:
        with self._autocast():
            logits = self.network(images)
        loss = self.torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        return loss.detach()

    def _autocast(self) -> AbstractContextManager:
        return self.torch.autocast("cpu", self.autocast_to, enabled=self.autocast_to is not None)


def multiply_adds(network: Any, side: int = 32) -> int:
    """As in benchmarks.paddle_worker."""
    import torch
    from torch import nn

    found = 0

    def count(layer: Any, inputs: Any, output: Any) -> None:
        nonlocal found
        found += layer.weight.numel() * (output.numel() // layer.weight.shape[0])

    hooks = [
        layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    network.eval()
    with torch.inference_mode():
        network(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    network.train()
    return found


if __name__ == "__main__":
    main()
