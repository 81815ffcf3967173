"""The pickles inside the CIFAR archives, read and written as plain data."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from cifar_hapi.plain_pickle import COMMON_STEPS, DTYPE, NDARRAY, RECONSTRUCT, PickleMachine, Token


def loads(pickled: bytes, source: str) -> dict[bytes, Any]:
    """The dictionary in a pickle of protocol 2 as the CIFAR archives have it.

    Keys and strings are bytes (UTF-8 if they were Unicode), numbers int, lists list; an array is uint8 [rows, columns],
    in either memory order, read-only. Raises DataError, which begins with `source` (a file's name), at anything else.
    """
    return _Reader(pickled, source).read()


def dumps(content: Mapping[str, object]) -> bytes:
    """A dictionary of str, int, lists of these and uint8 matrices in the form that Python 2 gave the archives.

    Strings become Python 2 byte strings, which Python's own pickler can't write.
    """
    pairs = b"".join(_string(key) + _value(value) for key, value in content.items())
    return b"".join([pickle.PROTO, b"\2", pickle.EMPTY_DICT, pickle.MARK, pairs, pickle.SETITEMS, pickle.STOP])


_UINT8 = Token()


class _Reader(PickleMachine):
    """Protocol 2, keys that are bytes, and uint8 matrices."""

    needed_by = "no CIFAR archive"
    way_out = "fetch the archive again"
    protocols = (2,)
    known_globals: ClassVar[dict[str, Token]] = {
        "numpy.core.multiarray._reconstruct": RECONSTRUCT,
        "numpy.ndarray": NDARRAY,
        "numpy.dtype": DTYPE,
    }
    steps: ClassVar[dict[bytes, Callable[[Any], None]]] = {
        **COMMON_STEPS,
        pickle.BINUNICODE: lambda reader: reader.push(reader.take(reader.number("<I"))),
    }
    key_kinds = (bytes,)
    no_array = "holds an array that is no uint8 matrix"

    def is_dtype(self, value: Any) -> bool:
        return value is _UINT8

    def dtype(self, code: Any) -> Token:
        if code != b"u1":
            self.refuse(f"holds an array of dtype {code[:20]!r}, expected b'u1' (uint8)")
        return _UINT8

    def check_order(self, dtype: Any, order: Any) -> None:
        """Byte order and alignment mean nothing to single bytes."""

    def array(self, shape: tuple[Any, ...], dtype: Any, values: bytes, order: Any) -> np.ndarray:
        if len(shape) != 2 or not all(isinstance(side, int) for side in shape):
            self.refuse(self.no_array)
        rows, columns = shape
        if min(rows, columns) < 0 or rows * columns != len(values):
            self.refuse(f"holds an array of {rows} x {columns} with {len(values)} bytes")
        return np.frombuffer(values, np.uint8).reshape(rows, columns, order=order)


def _value(value: object) -> bytes:
    match value:
        case str():
            return _string(value)
        case int():
            return _integer(value)
        case np.ndarray():
            return _matrix(value)
        case list():
            return b"".join([pickle.EMPTY_LIST, pickle.MARK, *map(_value, value), pickle.APPENDS])
        case _:
            raise TypeError(f"a CIFAR archive can't hold {type(value).__name__}")


def _string(value: str) -> bytes:
    return pickle.SHORT_BINSTRING + struct.pack("<B", len(value)) + value.encode("ascii")


def _integer(value: int) -> bytes:
    return pickle.BININT1 + struct.pack("<B", value) if 0 <= value < 256 else pickle.BININT + struct.pack("<i", value)


def _matrix(matrix: np.ndarray) -> bytes:
    """What NumPy of Python 2 wrote for a uint8 matrix in C order."""
    rows, columns = matrix.shape
    pixels = matrix.astype(np.uint8, casting="no").tobytes()
    return b"".join(
        [
            *(_global("numpy.core.multiarray", "_reconstruct"), _global("numpy", "ndarray")),
            *(_integer(0), pickle.TUPLE1, _string("b"), pickle.TUPLE3, pickle.REDUCE),
            *(pickle.MARK, _integer(1), _integer(rows), _integer(columns), pickle.TUPLE2),
            *(
                _global("numpy", "dtype"),
                _string("u1"),
                _integer(0),
                _integer(1),
                pickle.TUPLE3,
                pickle.REDUCE,
            ),
            *(pickle.MARK, _integer(3), _string("|"), 3 * pickle.NONE, 2 * _integer(-1), _integer(0)),
            *(pickle.TUPLE, pickle.BUILD),
            *(pickle.NEWFALSE, pickle.BINSTRING, struct.pack("<i", len(pixels)), pixels),
            *(pickle.TUPLE, pickle.BUILD),
        ]
    )


def _global(module: str, name: str) -> bytes:
    return b"".join([pickle.GLOBAL, module.encode(), b"\n", name.encode(), b"\n"])
