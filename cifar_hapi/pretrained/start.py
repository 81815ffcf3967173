"""From the tensors of a file to the weights of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from callbacks.paddle_model import shape_differences
from cifar_hapi.errors import DataError
from cifar_hapi.pretrained.names import NAMINGS, Naming, naming_of
from cifar_hapi.pretrained.weights_file import WeightsFile

_HEAD = "head."  # how the names of every network's last layer begin
_KINDS = "fiu"
_NAMED = 400  # missing or extra names that an error lists: all of a ResNet-50


@dataclass(frozen=True)
class Start:
    """What a network began with, as run.json records it.

    file: its name. names: whose they were. classes: how many the file's last layer tells apart; head: whether that is
    "kept", or "replaced" by a fresh one because there are others here.
    """

    file: str
    sha256: str
    names: str
    head: str
    classes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in run.json."""
        return dataclasses.asdict(self)


def put_weights(network: paddle.nn.Layer, weights: WeightsFile) -> Start:
    """Give `network` the parameters and running statistics of a file, in place, as float32.

    All of them, and no others: but where the file's last layer has another number of classes, that of the network stays
    as it is, freshly initialised. Raises DataError, with the names that differ, if the file is of another network, and
    for values that no weights can have; the network is then as it was.
    """
    fresh = network.state_dict()
    state = {name: tuple(tensor.shape) for name, tensor in fresh.items()}
    naming = naming_of(weights.tensors, state)
    _check_any_known(weights, naming, state)
    found = {name: tensor for name, tensor in weights.tensors.items() if not naming.ignores(name)}
    classes = _classes(found, naming)
    replaced = _has_other_classes(found, naming, state)
    if replaced:
        begins = naming.name(_HEAD)
        found = {name: tensor for name, tensor in found.items() if not name.startswith(begins)}
        state = {name: shape for name, shape in state.items() if not name.startswith(_HEAD)}
    _check_shapes(found, naming, state, weights)
    tensors = {name: naming.laid_out(found[naming.name(name)]) for name in state}
    _check_values(tensors, naming, weights)
    as_float32 = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    network.set_state_dict({**fresh, **as_float32})
    return Start(weights.path.name, weights.sha256, naming.title, "replaced" if replaced else "kept", classes)


def _classes(found: Mapping[str, np.ndarray], naming: Naming) -> int:
    """How many classes the file's last layer tells apart, 0 if it has none."""
    weight = found.get(naming.name(f"{_HEAD}weight"))
    return 0 if weight is None or weight.ndim != 2 else naming.laid_out(weight).shape[1]


def _has_other_classes(found: Mapping[str, np.ndarray], naming: Naming, state: Mapping[str, tuple[int, ...]]) -> bool:
    here, weight = state.get(f"{_HEAD}weight"), found.get(naming.name(f"{_HEAD}weight"))
    if here is None or weight is None or weight.ndim != 2:
        return False
    features, classes = naming.laid_out(weight).shape
    return features == here[0] and classes != here[1]


def _check_any_known(weights: WeightsFile, naming: Naming, state: Mapping[str, tuple[int, ...]]) -> None:
    if any(naming.name(name) in weights.tensors for name in state):
        return
    first = ", ".join(name[:40] for name in sorted(weights.tensors)[:3]) or "nothing"
    whose = " or ".join(each.title for each in NAMINGS)
    raise DataError(
        f"{weights.path}: has none of the network's tensors, by {whose}'s names; "
        f"it has {first}{', ...' if len(weights.tensors) > 3 else ''}"
    )


def _check_shapes(
    found: dict[str, np.ndarray], naming: Naming, state: Mapping[str, tuple[int, ...]], weights: WeightsFile
) -> None:
    expected = {naming.name(name): _theirs(shape, naming) for name, shape in state.items()}
    if differences := shape_differences(expected, dict(sorted(found.items())), most=_NAMED):
        raise DataError(
            f"{weights.path}: its weights are of another network, and network.name, width and stem must be those of "
            f"the file: {differences}"
        )


def _theirs(shape: tuple[int, ...], naming: Naming) -> tuple[int, ...]:
    return naming.laid_out(np.broadcast_to(np.float32(0), shape)).shape


def _check_values(tensors: dict[str, np.ndarray], naming: Naming, weights: WeightsFile) -> None:
    for name, tensor in tensors.items():
        where = f"{weights.path}: {naming.name(name)}"
        if tensor.dtype.kind not in _KINDS:
            raise DataError(f"{where} is {tensor.dtype}, which is no number")
        with np.errstate(over="ignore"):
            as_used = tensor.astype(np.float32)
        if not np.isfinite(as_used).all():
            raise DataError(f"{where} has values that are infinite or no number")
        if name.endswith("._variance") and (as_used < 0).any():
            raise DataError(f"{where} has a variance below 0")
