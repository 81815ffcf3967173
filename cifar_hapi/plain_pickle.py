"""Pickles read as plain data, by a machine that has no way to call anything.

The `pickle` module is not used to read them, only for the names of its opcodes. Even an `Unpickler` that refuses
every global can be made to allocate gigabytes by eight bytes (a memo index), or to overflow the C stack by
hashing a deep tuple. What is here knows the opcodes and the few globals that dictionaries of NumPy arrays consist
of, and refuses the rest. A format is a subclass, which says what of that it needs.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np

from cifar_hapi.errors import DataError

# The largest official file, CIFAR-100's `train`, has 200,000 opcodes; a few million bound memory and time.
MAX_OPCODES = 5_000_000
MAX_DIMENSIONS = 8


class Token:
    """A global, or what a constructor makes of it: known by identity alone."""


class Unbuilt(Token):
    """An array before BUILD gives it its shape and values, and the place of the array after."""

    array: np.ndarray | None = None


RECONSTRUCT, NDARRAY, DTYPE = Token(), Token(), Token()


class PickleMachine:
    """A machine with a stack, marks in it, and a memo; nothing on the stack can be called.

    pickled: the whole file. source: its name, with which each DataError begins. A subclass declares its format:
    `needed_by`, `way_out` and `no_array` are words of the errors, `protocols` and `known_globals` what is accepted,
    `steps` what each opcode does, `key_kinds` the types of the dictionaries' keys; and it makes dtypes and arrays.
    """

    needed_by: ClassVar[str]
    way_out: ClassVar[str]
    protocols: ClassVar[tuple[int, ...]]
    known_globals: ClassVar[Mapping[str, Token]]
    steps: ClassVar[Mapping[bytes, Callable[[Any], None]]]
    key_kinds: ClassVar[tuple[type, ...]]
    no_array: ClassVar[str]

    def __init__(self, pickled: bytes, source: str) -> None:
        self.pickled = pickled
        self.source = source
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> dict[Any, Any]:
        """The dictionary that the pickle holds; its arrays are read-only."""
        for _ in range(MAX_OPCODES):
            opcode = self.take(1)
            if opcode == pickle.STOP:
                content = self.pop()
                return content if isinstance(content, dict) else self.refuse("holds no dictionary")
            step = self.steps.get(opcode)
            if step is None:
                self.refuse(f"uses the pickle opcode {_opcode_name(opcode)}, which {self.needed_by} needs")
            step(self)
        return self.refuse(f"has over {MAX_OPCODES} pickle opcodes")

    def refuse(self, problem: str) -> NoReturn:
        raise DataError(f"{self.source}: {problem} (byte {self.position}); {self.way_out}")

    def dtype(self, code: Any) -> Any:
        """What `numpy.dtype(code)` is to this format."""
        raise NotImplementedError

    def check_order(self, dtype: Any, order: Any) -> None:
        """Refuse the byte order that BUILD gives `dtype`, unless the format has it."""
        raise NotImplementedError

    def array(self, shape: tuple[Any, ...], dtype: Any, values: bytes, order: Any) -> np.ndarray:
        """The array of `values`; shape and dtype are as they come. order: "C" or "F"."""
        raise NotImplementedError

    def is_dtype(self, value: Any) -> bool:
        """Whether `value` came from `dtype`."""
        raise NotImplementedError

    def call_known(self, function: Any, arguments: Any) -> Any:
        """What a known global that constructs no array gives; by default there is none."""
        self.refuse("calls what is no array constructor: nothing was run")

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
        if protocol not in self.protocols:
            known = " or ".join(map(str, self.protocols))
            self.refuse(f"is a pickle of protocol {protocol}, where {known} is expected")

    def remember(self, index: int) -> None:
        value = self.pop()
        self.memo[index] = value
        self.push(value)

    def recall(self, index: int) -> None:
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
        if not isinstance(target, dict) or len(pairs) % 2 or not all(isinstance(key, self.key_kinds) for key in keys):
            self.refuse("is damaged: a dictionary here has strings for keys")
        values = [each.array if isinstance(each, Unbuilt) else each for each in pairs[1::2]]
        target.update(zip(keys, values, strict=True))
        self.push(target)

    def find_global(self, module: Any, name: Any) -> None:
        asked = f"{module}.{name}"
        if asked not in self.known_globals:
            self.refuse(f"asks for the global {asked[:80]!r}, which {self.needed_by} needs: nothing was run")
        self.push(self.known_globals[asked])

    def reduce(self) -> None:
        match self.pop_tuple(2):
            case (function, (argument, _, _)) if function is RECONSTRUCT and argument is NDARRAY:
                self.push(Unbuilt())
            case (function, (code, _, _)) if function is DTYPE and isinstance(code, bytes | str):
                self.push(self.dtype(code))
            case (function, arguments):
                self.push(self.call_known(function, arguments))

    def build(self) -> None:
        match self.pop_tuple(2):
            case (target, tuple(state)) if self.is_dtype(target):
                self.check_order(target, state[1] if len(state) > 1 else None)
                self.push(target)
            case (Unbuilt(array=None) as target, (_, tuple(shape), dtype, bool(fortran), bytes(values))) if (
                self.is_dtype(dtype)
            ):
                target.array = self.array(shape, dtype, values, "F" if fortran else "C")
                self.push(target)
            case _:
                self.refuse(self.no_array)


COMMON_STEPS: dict[bytes, Callable[[PickleMachine], None]] = {
    pickle.PROTO: PickleMachine.protocol,
    pickle.NONE: lambda machine: machine.push(None),
    pickle.NEWTRUE: lambda machine: machine.push(True),
    pickle.NEWFALSE: lambda machine: machine.push(False),
    pickle.BININT: lambda machine: machine.push(machine.number("<i")),
    pickle.BININT1: lambda machine: machine.push(machine.number("<B")),
    pickle.BININT2: lambda machine: machine.push(machine.number("<H")),
    pickle.SHORT_BINSTRING: lambda machine: machine.push(machine.take(machine.number("<B"))),
    pickle.BINSTRING: lambda machine: machine.push(machine.take(machine.number("<i"))),
    pickle.MARK: lambda machine: machine.marks.append(len(machine.stack)),
    pickle.TUPLE: lambda machine: machine.push(tuple(machine.pop_to_mark())),
    pickle.EMPTY_TUPLE: lambda machine: machine.push(()),
    pickle.TUPLE1: lambda machine: machine.push(machine.pop_tuple(1)),
    pickle.TUPLE2: lambda machine: machine.push(machine.pop_tuple(2)),
    pickle.TUPLE3: lambda machine: machine.push(machine.pop_tuple(3)),
    pickle.EMPTY_LIST: lambda machine: machine.push([]),
    pickle.APPEND: lambda machine: machine.append([machine.pop()]),
    pickle.APPENDS: lambda machine: machine.append(machine.pop_to_mark()),
    pickle.EMPTY_DICT: lambda machine: machine.push({}),
    pickle.SETITEM: lambda machine: machine.set_items(machine.pop_tuple(2)),
    pickle.SETITEMS: lambda machine: machine.set_items(machine.pop_to_mark()),
    pickle.BINPUT: lambda machine: machine.remember(machine.number("<B")),
    pickle.LONG_BINPUT: lambda machine: machine.remember(machine.number("<I")),
    pickle.BINGET: lambda machine: machine.recall(machine.number("<B")),
    pickle.LONG_BINGET: lambda machine: machine.recall(machine.number("<I")),
    pickle.GLOBAL: lambda machine: machine.find_global(machine.line(), machine.line()),
    pickle.REDUCE: PickleMachine.reduce,
    pickle.BUILD: PickleMachine.build,
}


def bytes_of(shape: tuple[Any, ...], itemsize: int) -> int:
    """How many bytes an array of `shape` takes; -1 if that is no shape, or one of nothing."""
    if len(shape) > MAX_DIMENSIONS or not all(type(side) is int and side > 0 for side in shape):
        return -1
    return math.prod(shape) * itemsize


def _opcode_name(opcode: bytes) -> str:
    code = opcode.decode("latin-1")
    return next((known.name for known in pickletools.opcodes if known.code == code), repr(opcode))
