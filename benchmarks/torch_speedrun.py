"""What the recipe `speed94` follows, in PyTorch with its published settings; a child of benchmarks.speedrun.

Jordan 2024 (arXiv 2404.00498) and its successor with Muon: whitened first layer, 64-256-256 channels, GELU, alternating
flips, shifts by 2 pixels, label smoothing 0.2, 8 epochs in batches of 2,000, six views of each test image. As fast as
its users would have it on a CPU: bfloat16 by autocast where the CPU computes in it, channels-last, all images in memory
as one tensor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BATCH, EPOCHS, WHITENING_EPOCHS = 2000, 8, 3
FILTER_RATE, BIAS_RATE, HEAD_RATE, DECAY = 0.24, 0.053, 0.67, 2e-6 * BATCH  # of a loss that is summed over the batch
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help=".npz: train, train_labels, test, test_labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    begin = time.perf_counter()
    with np.load(arguments.images) as saved:
        train, train_labels, test, test_labels = (
            torch.from_numpy(saved[name]) for name in ("train", "train_labels", "test", "test_labels")
        )
    network = Network(arguments.precision == "bfloat16").to(memory_format=torch.channels_last)
    network.whiten(normalised(train[:5000]))
    dtype = getattr(torch, arguments.precision)
    epoch_seconds = train_network(network, train, train_labels, arguments.epochs, dtype)
    network.eval()
    found = {"epoch_seconds": epoch_seconds, "train_seconds": time.perf_counter() - begin}
    found |= {"plain": accuracy(network, test, test_labels, lambda images: network(images))}
    found |= {"views": accuracy(network, test, test_labels, lambda images: six_views(network, images))}
    found |= {"seconds": time.perf_counter() - begin, "torch": torch.__version__}
    print(json.dumps(found))


class Network(nn.Module):
    def __init__(self, bfloat16: bool) -> None:
        super().__init__()
        self.bfloat16 = bfloat16
        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.weight.requires_grad = False
        nn.init.zeros_(self.whitening.bias)
        self.groups = nn.Sequential(Group(24, 64), Group(64, 256), Group(256, 256))
        self.head = nn.Linear(256, 10, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Left after each pass: autocast keeps the weights that it has cast until then, whatever is learned meanwhile.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            maps = self.groups(F.gelu(self.whitening(images)))
            return self.head(maps.amax((2, 3))) / self.head.in_features

    def whiten(self, images: torch.Tensor) -> None:
        patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(12, 3, 2, 2)
        with torch.no_grad():
            self.whitening.weight.copy_(torch.cat([filters, -filters]))


class Group(nn.Module):
    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.first, self.second = _convolution(in_channels, channels), _convolution(channels, channels)
        self.first_norm, self.second_norm = _norm(channels), _norm(channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = F.gelu(self.first_norm(F.max_pool2d(self.first(maps), 2)))
        return F.gelu(self.second_norm(self.second(maps)))


def _convolution(in_channels: int, channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[:in_channels])
    return convolution


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad = False
    return norm


def train_network(
    network: Network, images: torch.Tensor, labels: torch.Tensor, epochs: int, dtype: torch.dtype
) -> list[float]:
    """The seconds of each epoch. dtype: what matrices are made orthogonal in."""
    filters = [weight for weight in network.groups.parameters() if weight.ndim == 4]
    norm_biases = [bias for bias in network.groups.parameters() if bias.requires_grad and bias.ndim == 1]
    rates = ((BIAS_RATE, [network.whitening.bias]), (BIAS_RATE, norm_biases), (HEAD_RATE, [network.head.weight]))
    sgd = torch.optim.SGD(
        [{"params": group, "lr": rate, "weight_decay": DECAY / rate} for rate, group in rates],
        momentum=0.85,
        nesterov=True,
        fused=True,
    )
    velocities = [torch.zeros_like(weight) for weight in filters]
    steps_per_epoch, step, seconds = len(images) // BATCH, 0, []
    for indices, flips in _epochs(len(images), epochs):
        begin = time.perf_counter()
        for part in indices[: steps_per_epoch * BATCH].split(BATCH):
            rest = 1 - step / (epochs * steps_per_epoch)
            whitening_rest = max(0.0, 1 - step / (WHITENING_EPOCHS * steps_per_epoch))
            for group, (rate, _), share in zip(sgd.param_groups, rates, (whitening_rest, rest, rest), strict=True):
                group["lr"] = rate * share
            logits = network(augmented(images[part], flips[part]))
            F.cross_entropy(logits.float(), labels[part], label_smoothing=0.2, reduction="sum").backward()
            sgd.step()
            _muon_step(filters, velocities, FILTER_RATE * rest, dtype)
            network.zero_grad(set_to_none=True)
            step += 1
        seconds.append(time.perf_counter() - begin)
    return seconds


def _epochs(count: int, epochs: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The order of each epoch, and which images are flipped in it: one half, then the other."""
    first = torch.rand(count) < 0.5
    for epoch in range(epochs):
        yield torch.randperm(count), first ^ bool(epoch % 2)


@torch.no_grad()
def _muon_step(
    filters: list[torch.Tensor], velocities: list[torch.Tensor], rate: float, dtype: torch.dtype, momentum: float = 0.6
) -> None:
    for weight, velocity in zip(filters, velocities, strict=True):
        velocity.mul_(momentum).add_(weight.grad)
        update = orthogonal((weight.grad + momentum * velocity).flatten(1), dtype).reshape(weight.shape)
        weight.mul_(len(weight) ** 0.5 / weight.norm()).sub_(rate * update)


def orthogonal(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As cifar_hapi.muon.orthogonal, but in `dtype`: the published one is in bfloat16, which some CPUs only imitate."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.to(dtype) / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(3):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def augmented(images: torch.Tensor, flipped: torch.Tensor, shift: int = 2) -> torch.Tensor:
    """A batch, uint8 [B, 32, 32, 3], flipped where told, shifted at random, normalised."""
    batch = normalised(images)
    batch = torch.where(flipped[:, None, None, None], batch.flip(3), batch)
    padded = F.pad(batch, (shift,) * 4, "reflect")
    result = torch.empty_like(batch, memory_format=torch.channels_last)
    windows = torch.randint(0, 2 * shift + 1, (2, len(batch)))
    for top in range(2 * shift + 1):
        for left in range(2 * shift + 1):
            chosen = (windows[0] == top) & (windows[1] == left)
            result[chosen] = padded[chosen, :, top : top + 32, left : left + 32]
    return result


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = (255 * torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    pixels = images.permute(0, 3, 1, 2).float()
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def six_views(network: Network, images: torch.Tensor) -> torch.Tensor:
    """Of each image and of its two shifts by a pixel, itself and its mirror image: the image counts half."""

    def both(batch: torch.Tensor) -> torch.Tensor:
        return (network(batch).float() + network(batch.flip(3)).float()) / 2

    padded = F.pad(images, (1,) * 4, "reflect")
    shifted = (both(padded[:, :, :32, :32]) + both(padded[:, :, 2:, 2:])) / 2
    return (both(images) + shifted) / 2


@torch.inference_mode()
def accuracy(
    network: Network, images: torch.Tensor, labels: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor]
) -> float:
    parts = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    right = sum(int((logits(normalised(part)).argmax(1) == answers).sum()) for part, answers in parts)
    return right / len(labels)


if __name__ == "__main__":
    main()
