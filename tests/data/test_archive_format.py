from __future__ import annotations

import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hapi import plain_pickle
from cifar_hapi.data.archive_format import dumps, loads
from cifar_hapi.errors import DataError

CONTENT = {
    "batch_label": "training batch 1 of 5",
    "labels": [0, 9, 255, 256, 70_000, -1],
    "names": ["disc", ""],
    "data": np.arange(12, dtype=np.uint8).reshape(3, 4),
}
PICKLED = dumps(CONTENT)
ARRAY = PICKLED[PICKLED.index(b"cnumpy.core") : -2]  # the array is the last value, before SETITEMS and STOP
BLANK = ARRAY[: ARRAY.index(b"R") + 1]
DTYPE = ARRAY[ARRAY.index(b"cnumpy\ndtype") : ARRAY.index(b"\x89T")]


def in_dictionary(value: bytes) -> bytes:
    return b"\x80\x02}U\x01k" + value + b"s."


def changed(old: bytes, new: bytes) -> bytes:
    """A dictionary of the array, with a change in how it is pickled."""
    assert ARRAY.count(old) == 1
    return in_dictionary(ARRAY.replace(old, new))


def test_what_was_written_is_read_back() -> None:
    content = loads(PICKLED, "batch")
    assert list(content) == [b"batch_label", b"labels", b"names", b"data"]
    assert content[b"batch_label"] == b"training batch 1 of 5"
    assert content[b"labels"] == CONTENT["labels"]
    assert content[b"names"] == [b"disc", b""]
    assert content[b"data"].dtype == np.uint8
    np.testing.assert_array_equal(content[b"data"], CONTENT["data"])


@pytest.mark.filterwarnings("ignore")  # NumPy's about the old form, which is the archives' form
def test_other_readers_of_the_archives_read_what_was_written() -> None:
    content = pickle.loads(PICKLED, encoding="bytes")
    assert content[b"labels"] == CONTENT["labels"]
    assert content[b"names"] == [b"disc", b""]
    np.testing.assert_array_equal(content[b"data"], CONTENT["data"])


def test_memo_unicode_and_single_item_opcodes_are_read() -> None:
    pickled = b"\x80\x02}q\x01(U\x01aX\x03\x00\x00\x00dogr\x00\x01\x00\x00U\x01bj\x00\x01\x00\x00U\x01c]h\x01au."
    content = loads(pickled, "batch")
    assert content[b"a"] == content[b"b"] == b"dog"
    assert content[b"c"] == [content]


def test_an_array_in_fortran_order_is_read_as_numpy_reads_it() -> None:
    columns = bytes(range(12))
    pickled = changed(b"\x89T", b"\x88T")  # is_fortran: False, then the pixels
    expected = np.frombuffer(columns, np.uint8).reshape(3, 4, order="F")
    np.testing.assert_array_equal(loads(pickled, "batch")[b"k"], expected)


class Command:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("pickled", "name"),
    [
        (pickle.dumps({"k": Command()}, 2), f"{os.system.__module__}.system"),
        (pickle.dumps({"k": eval}, 2), "__builtin__.eval"),
        (pickle.dumps({"k": np.int64(3)}, 2), "multiarray.scalar"),
        (pickle.dumps({"k": b"bytes of Python 3"}, 2), "_codecs.encode"),
        (in_dictionary(b"cnumpy\nload\n"), "numpy.load"),
        (in_dictionary(b"c\x1b[2J\nx\n"), r"'\x1b[2J.x'"),
    ],
)
def test_any_other_global_is_refused_by_name(pickled: bytes, name: str) -> None:
    with pytest.raises(DataError, match=r"^batch: asks for the global") as refused:
        loads(pickled, "batch")
    assert name in str(refused.value)


@pytest.mark.parametrize(
    ("pickled", "problem"),
    [
        (b"", "truncated"),
        (PICKLED[:-1], "truncated"),
        (PICKLED[: len(PICKLED) // 2], "truncated"),
        (b"\x80\x02cnumpy", "truncated"),
        (b"\x80\x02T\xff\xff\xff\xff.", "truncated"),
        (pickle.dumps({"k": 1}, 4), "protocol 4"),
        (b"\x80\x02].", "no dictionary"),
        (b"\x80\x02.", "a value is missing"),
        (b"\x80\x02}(0.", "POP"),
        (b"\x80\x02}(\x85.", "a value is missing"),
        (b"\x80\x02}u.", "a mark is missing"),
        (b"\x80\x02h\x05.", "value 5 was never stored"),
        (b"\x80\x02}(K\x01e.", "no list"),
        (b"\x80\x02}K\x01K\x02s.", "strings for keys"),
        (b"\x80\x02}(U\x01ku.", "strings for keys"),
        (b"\x80\x02]U\x01kK\x01s.", "strings for keys"),
        (in_dictionary(b"\x82\x01"), "EXT1"),
        (in_dictionary(b"U\x01aQ"), "BINPERSID"),
        (in_dictionary(b"Pa\n"), "PERSID"),
        (in_dictionary(b"cnumpy\nndarray\n)\x81"), "NEWOBJ"),
        (in_dictionary(b"(cnumpy\nndarray\no"), "OBJ"),
        (in_dictionary(b"(inumpy\nndarray\n"), "INST"),
        (in_dictionary(b"\x8b\xff\xff\xff\x7f"), "LONG4"),
        (in_dictionary(b"\xff"), r"b'\\xff'"),
        (in_dictionary(b"cnumpy\nndarray\n)R"), "array constructor"),
        (in_dictionary(b"U\x01a)R"), "array constructor"),
        (in_dictionary(b"cnumpy\ndtype\n}b"), "no uint8 matrix"),
        (in_dictionary(ARRAY + b")R"), "array constructor"),
        (in_dictionary(ARRAY + b")b"), "no uint8 matrix"),
        (changed(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"), "array constructor"),
        (changed(BLANK, b"cnumpy\nndarray\n"), "no uint8 matrix"),
        (changed(DTYPE, b"N"), "no uint8 matrix"),
        (changed(b"U\x02u1", b"U\x02O8"), "dtype b'O8'"),
        (changed(b"U\x02u1", b"U\x02i8"), "dtype b'i8'"),
        (changed(b"U\x02u1", b"U\x04V2,1"), "dtype b'V2,1'"),
        (changed(b"K\x03K\x04\x86", b"K\x03K\x05\x86"), "3 x 5 with 12 bytes"),
        (changed(b"K\x03K\x04\x86", b"J\xfd\xff\xff\xffJ\xfc\xff\xff\xff\x86"), "-3 x -4 with 12 bytes"),
        (changed(b"K\x03K\x04\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"), "2147483647 x 2147483647"),
        (changed(b"K\x03K\x04\x86", b"K\x0c\x85"), "no uint8 matrix"),
        (changed(b"K\x03K\x04\x86", b"NK\x04\x86"), "no uint8 matrix"),
    ],
)
def test_what_is_no_archive_pickle_is_refused_in_one_line(pickled: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as refused:
        loads(pickled, "cifar/data_batch_1")
    assert str(refused.value).startswith("cifar/data_batch_1: ")
    assert "\n" not in str(refused.value)


def test_a_huge_memo_index_takes_no_memory() -> None:
    pickled = b"\x80\x02}r\xff\xff\xff\x7f."  # pickle.Unpickler would allocate 32 GiB for it
    tracemalloc.start()
    try:
        assert loads(pickled, "batch") == {}
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_deep_tuple_as_a_key_is_refused() -> None:
    pickled = b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns."  # hashing it, as pickle.Unpickler does, ends the process
    with pytest.raises(DataError, match="strings for keys"):
        loads(pickled, "batch")


def test_the_number_of_opcodes_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "MAX_OPCODES", 1_000)
    with pytest.raises(DataError, match="over 1000 pickle opcodes"):
        loads(b"\x80\x02" + b"}" * 2_000, "batch")


@pytest.mark.parametrize("value", [1.5, None, np.zeros(3), np.zeros((2, 2)), "x" * 300, "caffè", 2**40])
def test_what_the_format_cannot_hold_is_not_written(value: object) -> None:
    with pytest.raises((TypeError, ValueError, struct.error)):
        dumps({"k": value})


def read_or_refuse(pickled: bytes) -> None:
    try:
        content = loads(pickled, "batch")
    except DataError as error:
        assert str(error).startswith("batch: ")
        assert "\n" not in str(error)
    else:
        assert all(isinstance(key, bytes) for key in content)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.data())
def test_a_damaged_pickle_is_read_or_refused(data: st.DataObject) -> None:
    read_or_refuse(damaged(data.draw, PICKLED))


FRAGMENTS = [
    *(b"(", b"N", b"\x88", b"K\x01", b"J\xff\xff\xff\xff", b"U\x01k", b"U\x02u1", b"}", b"]", b")", b"\x85", b"\x86"),
    *(b"\x87", b"t", b"a", b"e", b"s", b"u", b"R", b"b", b"q\x01", b"h\x01", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"),
    *(b"cnumpy.core.multiarray\n_reconstruct\n", ARRAY, b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"),
]


@settings(deadline=None, derandomize=True, max_examples=500)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30))
def test_any_program_of_known_opcodes_is_read_or_refused(fragments: list[bytes]) -> None:
    read_or_refuse(b"\x80\x02" + b"".join(fragments) + b".")
