"""What others call the tensors of our networks, and how they lay them out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

# Ours to paddle.vision's, applied in this order.
_TO_VISION = {
    r"^stem\.conv": "conv1",
    r"^stem\.norm": "bn1",
    r"^stage(\d)": r"layer\1",
    r"first\.conv": "conv1",
    r"first\.norm": "bn1",
    r"second\.conv": "conv2",
    r"second\.norm": "bn2",
    r"third\.conv": "conv3",
    r"third\.norm": "bn3",
    r"shortcut\.conv": "downsample.0",
    r"shortcut\.norm": "downsample.1",
    r"^head": "fc",
}
_TO_TORCH = {r"\._mean$": ".running_mean", r"\._variance$": ".running_var"}


def vision_name(name: str) -> str:
    """What `paddle.vision.models` calls the tensor that is `name` in our ResNet.

    >>> vision_name("stage2.0.shortcut.norm._mean")
    'layer2.0.downsample.1._mean'
    """
    return _renamed(name, _TO_VISION)


def torch_name(name: str) -> str:
    """What torchvision calls it.

    >>> torch_name("stage2.0.shortcut.norm._mean")
    'layer2.0.downsample.1.running_mean'
    """
    return _renamed(vision_name(name), _TO_TORCH)


def own_name(name: str) -> str:
    """What we call it."""
    return name


@dataclass(frozen=True)
class Naming:
    """A way to name and lay out the tensors of a state dict.

    title: whose it is. name: from our name to theirs. transposed: whether linear weights are [out, in], not [in, out].
    without: the end of names that mean nothing here.
    """

    title: str
    name: Callable[[str], str]
    transposed: bool = False
    without: str | None = None

    def ignores(self, name: str) -> bool:
        return self.without is not None and name.endswith(self.without)

    def laid_out(self, tensor: np.ndarray) -> np.ndarray:
        """Theirs as ours, or ours as theirs; only linear weights have two dimensions."""
        return tensor.T if self.transposed and tensor.ndim == 2 else tensor


NAMINGS = (
    Naming("cifar-hapi", own_name),
    Naming("paddle.vision", vision_name),
    Naming("torchvision", torch_name, transposed=True, without=".num_batches_tracked"),
)


def naming_of(found: Iterable[str], ours: Iterable[str]) -> Naming:
    """By whom a file's tensors were named, where `ours` are the names of the network: who shares most with it."""
    there, here = set(found), list(ours)
    return max(NAMINGS, key=lambda naming: sum(naming.name(name) in there for name in here))


def _renamed(name: str, patterns: dict[str, str]) -> str:
    for pattern, replacement in patterns.items():
        name = re.sub(pattern, replacement, name)
    return name
