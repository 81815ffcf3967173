"""A file of weights, whoever made it: `.pdparams` or safetensors, told apart by what is in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors

from cifar_hapi.errors import DataError
from cifar_hapi.plain_pickle import MAX_DIMENSIONS
from cifar_hapi.pretrained.pdparams import read_pdparams
from cifar_hapi.regular_file import read_regular

MAX_BYTES = 2**30  # ResNet-50 has 98 MB, ResNet-152 242 MB
_LONGEST_NAME = 200


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """What was read: arrays by the names that the file gives them, and the SHA-256 of the whole file."""

    path: Path
    sha256: str
    tensors: dict[str, np.ndarray]


def read_weights(path: Path) -> WeightsFile:
    """Read a state dict from a `.pdparams` or a safetensors file of at most a gigabyte.

    No code in it is run. Raises DataError, one line that names the file, for any other.
    """
    data = read_regular(path, MAX_BYTES, DataError, "no weights of a network that is here")
    if data[8:9] == b"{":  # first, because the size before it may begin as a pickle does
        tensors = _read_safetensors(data, path)
    elif data[:1] == b"\x80":
        tensors = read_pdparams(data, str(path))
    else:
        raise DataError(f"{path}: {_what_else(data)}; expected a .pdparams or a .safetensors file")
    for name, tensor in tensors.items():
        if len(name) > _LONGEST_NAME or tensor.ndim > MAX_DIMENSIONS:
            raise DataError(
                f"{path}: {name[:80]!r} has a name of {len(name)} letters, {tensor.ndim} dimensions: no weights"
            )
    return WeightsFile(path, hashlib.sha256(data).hexdigest(), tensors)


def _read_safetensors(data: bytes, path: Path) -> dict[str, np.ndarray]:
    try:
        return parse_safetensors(data)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: is no safetensors file that NumPy can read: {reason}") from None


def _what_else(data: bytes) -> str:
    if data[:2] == b"PK":
        return "is a zip file, as PyTorch saves; write it anew with safetensors.torch.save_file"
    return "is empty" if not data else "holds no weights"
