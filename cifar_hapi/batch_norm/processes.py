"""The tensors of other processes' networks, given as they are or as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from callbacks.paddle_model import Tensors, shape_differences
from cifar_hapi.errors import RunError
from cifar_hapi.regular_file import read_regular


def tensors_of(process: Mapping[str, Any] | str | Path, own: Mapping[str, Any]) -> Tensors:
    """A state dict, or that of a safetensors file, as arrays. Raises RunError unless it has the shapes of `own`.

    No file is read whose size is more than twice what `own` takes, and a megabyte; no pipe is followed.
    """
    where = "state dict" if isinstance(process, Mapping) else str(process)
    if isinstance(process, Mapping):
        tensors = {name: np.asarray(tensor) for name, tensor in process.items()}
    else:
        tensors = _read(Path(process), 2 * sum(tensor.nbytes for tensor in own.values()) + 2**20)
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if differences := shape_differences(expected, tensors):
        raise RunError(f"{where}: is of another network: {differences}")
    for name, tensor in tensors.items():
        if tensor.dtype.kind not in "biuf":
            raise RunError(f"{where}: {name} is {tensor.dtype}, which is no number")
    return tensors


def _read(file: Path, most: int) -> Tensors:
    data = read_regular(file, most, RunError, "not the weights of this network")
    try:
        return load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{file}: is no safetensors file that NumPy can read: {error}") from None
