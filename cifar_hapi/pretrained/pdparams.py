"""What `paddle.save` writes of a state dict, read as plain data."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cifar_hapi.errors import DataError
from cifar_hapi.plain_pickle import COMMON_STEPS, DTYPE, NDARRAY, RECONSTRUCT, PickleMachine, Token, bytes_of

_NUMBERS = ("f2", "f4", "f8", "i4", "i8")
_NAME_TABLE = "StructuredToParameterName@@"  # what Paddle calls each tensor inside
_PARTS_TABLE = "UnpackBigParamInfor@@"  # how tensors above 1 GiB were cut, as pickles before protocol 4 need
_ENCODE = Token()


def read_pdparams(pickled: bytes, source: str) -> dict[str, np.ndarray]:
    """The tensors of a `.pdparams` file by name, read-only, in the dtypes that they were saved in.

    pickled: the file, a pickle of protocol 2, 3 or 4 as `paddle.save(network.state_dict(), ...)` writes it; those of
    Python 2 are read, too. Nothing in it is run or looked up. Raises DataError, which begins with `source`, for
    anything else.
    """
    content = {_text(key): value for key, value in _Reader(pickled, source).read().items()}
    content.pop(_NAME_TABLE, None)
    parts = content.pop(_PARTS_TABLE, {})
    for name, value in content.items():
        if not isinstance(value, np.ndarray):
            raise DataError(f"{source}: {name[:80]!r} is no tensor; expected what paddle.save makes of a state dict")
    return _joined(content, parts, source)


class _Reader(PickleMachine):
    """Protocols 2 to 4, names that are strings, and arrays of numbers."""

    needed_by = "no state dict of Paddle"
    way_out = "expected what paddle.save makes of a state dict"
    no_array = "holds an array that is none of numbers"
    protocols = (2, 3, 4)
    known_globals: ClassVar[dict[str, Token]] = {
        "numpy.core.multiarray._reconstruct": RECONSTRUCT,
        "numpy._core.multiarray._reconstruct": RECONSTRUCT,
        "numpy.ndarray": NDARRAY,
        "numpy.dtype": DTYPE,
        "_codecs.encode": _ENCODE,
    }
    key_kinds = (str, bytes)

    def __init__(self, pickled: bytes, source: str) -> None:
        super().__init__(pickled, source)
        self.encoded = 0

    def is_dtype(self, value: Any) -> bool:
        return isinstance(value, np.dtype)

    def dtype(self, code: Any) -> np.dtype:
        if _text(code) not in _NUMBERS:
            self.refuse(f"holds an array of dtype {code[:20]!r}, expected {', '.join(_NUMBERS)}")
        return np.dtype(f"<{_text(code)}")

    def check_order(self, dtype: Any, order: Any) -> None:
        if order not in ("<", b"<"):
            self.refuse("holds an array in another byte order than little-endian")

    def array(self, shape: tuple[Any, ...], dtype: Any, values: bytes, order: Any) -> np.ndarray:
        if bytes_of(shape, dtype.itemsize) != len(values):
            self.refuse(f"holds an array whose {len(values)} bytes are not those of its shape")
        return np.frombuffer(values, dtype).reshape(shape, order=order)

    def call_known(self, function: Any, arguments: Any) -> bytes:
        """Bytes, which before protocol 3 are pickled as text that is to be encoded."""
        if function is not _ENCODE or not isinstance(arguments, tuple) or len(arguments) != 2:
            self.refuse("calls what is no array constructor: nothing was run")
        text, encoding = arguments
        if not isinstance(text, str) or encoding != "latin1":
            self.refuse("is damaged: bytes are pickled as what is no latin1 text")
        try:
            values = text.encode("latin1")
        except UnicodeEncodeError:
            self.refuse("is damaged: bytes above 255")
        self.encoded += len(values)
        if self.encoded > len(self.pickled):  # one text, encoded again and again
            self.refuse("unpacks to more than it holds")
        return values

    def text(self, form: str) -> None:
        try:
            self.push(self.take(self.number(form)).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            self.refuse("is damaged: a text is not UTF-8")

    def whole_number(self) -> None:
        length = self.number("<B")
        if length > 8:
            self.refuse(f"holds a number of {length} bytes")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def stack_global(self) -> None:
        module, name = self.pop_tuple(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            self.refuse("is damaged: a global has no name")
        self.find_global(module, name)

    steps: ClassVar[dict[bytes, Callable[[Any], None]]] = {
        **COMMON_STEPS,
        pickle.BINUNICODE: lambda reader: reader.text("<I"),
        pickle.SHORT_BINUNICODE: lambda reader: reader.text("<B"),
        pickle.BINUNICODE8: lambda reader: reader.text("<Q"),
        pickle.BINBYTES: lambda reader: reader.push(reader.take(reader.number("<I"))),
        pickle.SHORT_BINBYTES: lambda reader: reader.push(reader.take(reader.number("<B"))),
        pickle.BINBYTES8: lambda reader: reader.push(reader.take(reader.number("<Q"))),
        pickle.LONG1: whole_number,
        pickle.MEMOIZE: lambda reader: reader.remember(len(reader.memo)),
        pickle.FRAME: lambda reader: reader.take(8),
        pickle.STACK_GLOBAL: stack_global,
    }


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _joined(tensors: dict[str, np.ndarray], table: Any, source: str) -> dict[str, np.ndarray]:
    """The tensors, those that were cut put together again."""
    for name, about in table.items() if isinstance(table, dict) else [("", None)]:
        match about:
            case {"OriginShape": tuple(shape), "slices": list(names)}:
                parts = [tensors.pop(part, None) for part in names if isinstance(part, str)]
                whole = _whole(shape, parts) if len(parts) == len(names) else None
            case _:
                whole = None
        if whole is None:
            raise DataError(f"{source}: {_PARTS_TABLE} does not tell how {_text(name)[:80]!r} was cut")
        tensors[_text(name)] = whole
    return tensors


def _whole(shape: tuple[Any, ...], parts: list[Any]) -> np.ndarray | None:
    """The tensor of `shape` that was cut into flat `parts`; None where they do not fit, or one is missing."""
    if not parts or not all(isinstance(part, np.ndarray) and part.ndim == 1 for part in parts):
        return None
    fits = bytes_of(shape, 1) == sum(part.size for part in parts) and len({part.dtype for part in parts}) == 1
    return np.concatenate(parts).reshape(shape) if fits else None
