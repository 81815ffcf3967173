"""The pickles inside the CIFAR archives, read and written as plain data.

The `pickle` module is not used to read them, only for the names of its opcodes. Even an `Unpickler` that refuses
every global can be made to allocate gigabytes by eight bytes (a memo index), or to overflow the C stack by
hashing a deep tuple. What is here knows the two dozen opcodes and the three globals that the official files
consist of, has no way to call anything, and refuses the rest.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from ..errors import DataError

# The largest official file, CIFAR-100's `train`, has 200,000 opcodes; a few million bound memory and time.
MAX_OPCODES = 5_000_000


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


class _Token:
    """A global, or what NumPy's constructors make of it before BUILD gives it its state: known by identity alone."""


_RECONSTRUCT, _NDARRAY, _DTYPE, _UNBUILT_ARRAY, _UINT8 = (_Token() for _ in range(5))
_GLOBALS = {
    "numpy.core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": _DTYPE,
}


class _Reader:
    """A pickle machine with a stack, marks in it, and a memo; nothing on the stack can be called."""

    def __init__(self, pickled: bytes, source: str) -> None:
        self.pickled = pickled
        self.source = source
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> dict[bytes, Any]:
        for _ in range(MAX_OPCODES):
            opcode = self.take(1)
            if opcode == pickle.STOP:
                content = self.pop()
                return content if isinstance(content, dict) else self.refuse("holds no dictionary")
            step = _STEPS.get(opcode)
            if step is None:
                self.refuse(f"uses the pickle opcode {_opcode_name(opcode)}, which no CIFAR archive needs")
            step(self)
        return self.refuse(f"has over {MAX_OPCODES} pickle opcodes")

    def refuse(self, problem: str) -> NoReturn:
        raise DataError(f"{self.source}: {problem} (byte {self.position}); fetch the archive again")

    def take(self, length: int) -> bytes:
        start, self.position = self.position, self.position + length
        if length < 0 or self.position > len(self.pickled):
            self.position = start
            self.refuse("is truncated or damaged")
        return self.pickled[start : self.position]

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def line(self) -> str:
        end = self.pickled.find(b"\n", self.position)
        text = self.take(end - self.position)  # a missing end is -1, so a negative length
        self.position = end + 1
        return text.decode("ascii", "backslashreplace")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.refuse("is damaged: a value is missing")
        return self.stack.pop()

    def pop_tuple(self, length: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(length)]))

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            self.refuse("is damaged: a mark is missing")
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def protocol(self) -> None:
        protocol = self.number("<B")
        if protocol != 2:
            self.refuse(f"is a pickle of protocol {protocol}, where CIFAR archives have protocol 2")

    def remember(self, form: str) -> None:
        value = self.pop()
        self.memo[self.number(form)] = value
        self.push(value)

    def recall(self, form: str) -> None:
        index = self.number(form)
        if index not in self.memo:
            self.refuse(f"is damaged: value {index} was never stored")
        self.push(self.memo[index])

    def append(self, values: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, list):
            self.refuse("is damaged: appends to what is no list")
        target.extend(values)
        self.push(target)

    def set_items(self, pairs: Sequence[Any]) -> None:
        target = self.pop()
        keys = pairs[0::2]
        if not isinstance(target, dict) or len(pairs) % 2 or not all(isinstance(key, bytes) for key in keys):
            self.refuse("is damaged: a dictionary here has strings for keys")
        target.update(zip(keys, pairs[1::2], strict=True))
        self.push(target)

    def find_global(self) -> None:
        name = f"{self.line()}.{self.line()}"
        if name not in _GLOBALS:
            self.refuse(f"asks for the global {name[:80]!r}, which no CIFAR archive needs: nothing was run")
        self.push(_GLOBALS[name])

    def reduce(self) -> None:
        match self.pop_tuple(2):
            case (function, (argument, _, _)) if function is _RECONSTRUCT and argument is _NDARRAY:
                self.push(_UNBUILT_ARRAY)
            case (function, (bytes(code), _, _)) if function is _DTYPE:
                if code != b"u1":
                    self.refuse(f"holds an array of dtype {code[:20]!r}, expected b'u1' (uint8)")
                self.push(_UINT8)
            case _:
                self.refuse("calls what is no array constructor: nothing was run")

    def build(self) -> None:
        match self.pop_tuple(2):
            case (target, tuple()) if target is _UINT8:
                self.push(_UINT8)  # byte order and alignment mean nothing to single bytes
            case (target, (_, (int(rows), int(columns)), dtype, bool(fortran), bytes(pixels))) if (
                target is _UNBUILT_ARRAY and dtype is _UINT8
            ):
                self.push(self.matrix(rows, columns, pixels, "F" if fortran else "C"))
            case _:
                self.refuse("holds an array that is no uint8 matrix")

    def matrix(self, rows: int, columns: int, pixels: bytes, order: Any) -> np.ndarray:
        if min(rows, columns) < 0 or rows * columns != len(pixels):
            self.refuse(f"holds an array of {rows} x {columns} with {len(pixels)} bytes")
        return np.frombuffer(pixels, np.uint8).reshape(rows, columns, order=order)


_STEPS: dict[bytes, Callable[[_Reader], None]] = {
    pickle.PROTO: _Reader.protocol,
    pickle.NONE: lambda reader: reader.push(None),
    pickle.NEWTRUE: lambda reader: reader.push(True),
    pickle.NEWFALSE: lambda reader: reader.push(False),
    pickle.BININT: lambda reader: reader.push(reader.number("<i")),
    pickle.BININT1: lambda reader: reader.push(reader.number("<B")),
    pickle.BININT2: lambda reader: reader.push(reader.number("<H")),
    pickle.SHORT_BINSTRING: lambda reader: reader.push(reader.take(reader.number("<B"))),
    pickle.BINSTRING: lambda reader: reader.push(reader.take(reader.number("<i"))),
    pickle.BINUNICODE: lambda reader: reader.push(reader.take(reader.number("<I"))),
    pickle.MARK: lambda reader: reader.marks.append(len(reader.stack)),
    pickle.TUPLE: lambda reader: reader.push(tuple(reader.pop_to_mark())),
    pickle.EMPTY_TUPLE: lambda reader: reader.push(()),
    pickle.TUPLE1: lambda reader: reader.push(reader.pop_tuple(1)),
    pickle.TUPLE2: lambda reader: reader.push(reader.pop_tuple(2)),
    pickle.TUPLE3: lambda reader: reader.push(reader.pop_tuple(3)),
    pickle.EMPTY_LIST: lambda reader: reader.push([]),
    pickle.APPEND: lambda reader: reader.append([reader.pop()]),
    pickle.APPENDS: lambda reader: reader.append(reader.pop_to_mark()),
    pickle.EMPTY_DICT: lambda reader: reader.push({}),
    pickle.SETITEM: lambda reader: reader.set_items(reader.pop_tuple(2)),
    pickle.SETITEMS: lambda reader: reader.set_items(reader.pop_to_mark()),
    pickle.BINPUT: lambda reader: reader.remember("<B"),
    pickle.LONG_BINPUT: lambda reader: reader.remember("<I"),
    pickle.BINGET: lambda reader: reader.recall("<B"),
    pickle.LONG_BINGET: lambda reader: reader.recall("<I"),
    pickle.GLOBAL: _Reader.find_global,
    pickle.REDUCE: _Reader.reduce,
    pickle.BUILD: _Reader.build,
}


def _opcode_name(opcode: bytes) -> str:
    code = opcode.decode("latin-1")
    return next((known.name for known in pickletools.opcodes if known.code == code), repr(opcode))


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
