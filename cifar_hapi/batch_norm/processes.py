"""The tensors of other processes' networks, given as they are or as files."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from callbacks.paddle_model import Tensors, shape_differences
from cifar_hapi.errors import RunError


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
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RunError(f"{file}: is no file")
            data = stream.read(most + 1)
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror or error}") from None
    if len(data) > most:
        raise RunError(f"{file}: is larger than {most} bytes: not the weights of this network")
    try:
        return load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{file}: is no safetensors file that NumPy can read: {error}") from None
