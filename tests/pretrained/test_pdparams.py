"""State dicts as paddle.save writes them are read, and nothing else is."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
import warnings
from collections import OrderedDict

import numpy as np
import paddle
import pytest
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hapi import plain_pickle
from cifar_hapi.errors import DataError
from cifar_hapi.pretrained.pdparams import read_pdparams

ARRAYS = {
    "conv1.weight": np.arange(24, dtype="float32").reshape(2, 3, 2, 2),
    "bn1._mean": np.array([-1.5, 2.0], "float32"),
    "fc.weight": np.asfortranarray(np.arange(6, dtype="float64").reshape(2, 3)),
    "half": np.array([[0.5]], "float16"),
    "batches": np.array(7),
}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves_of_a_network_is_read(tmp_path, protocol):
    network = paddle.nn.Sequential(paddle.nn.Conv2D(3, 300, 3), paddle.nn.BatchNorm2D(300), paddle.nn.Linear(300, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paddle.save(network.state_dict(), str(tmp_path / "net.pdparams"), protocol=protocol)
    found = read_pdparams((tmp_path / "net.pdparams").read_bytes(), "net.pdparams")
    assert_same(found, {name: tensor.numpy() for name, tensor in network.state_dict().items()})


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_dictionaries_of_arrays_are_read(protocol):
    assert_same(read_pdparams(pickle.dumps(ARRAYS, protocol), "x"), ARRAYS)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_an_array_under_two_names_is_read(protocol):
    shared = ARRAYS["bn1._mean"]
    assert_same(read_pdparams(pickle.dumps({"a": shared, "b": shared}, protocol), "x"), {"a": shared, "b": shared})


def test_a_file_of_python_2_is_read():
    """Names and values as byte strings, as Paddle 1.x may have written them."""
    values = ARRAYS["bn1._mean"].tobytes()
    pickled = b"".join(
        [
            b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01\x8a\x01\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff",
            b"K\x00tb\x89U" + struct.pack("<B", len(values)) + values + b"tbs.",
        ]
    )
    assert_same(read_pdparams(pickled, "x"), {"a": ARRAYS["bn1._mean"]})


def in_parts(**changes):
    """As Paddle cuts tensors above 1 GiB for protocols before 4 (`_unpack_saved_dict`)."""
    whole = np.arange(10, dtype="float32")
    about = {"OriginShape": (2, 5), "slices": ["big@@.0", "big@@.1"], **changes}
    return {"big@@.0": whole[:7], "big@@.1": whole[7:], "a": whole, "UnpackBigParamInfor@@": {"big": about}}


def test_a_tensor_that_paddle_has_cut_is_put_together():
    whole = np.arange(10, dtype="float32")
    assert_same(read_pdparams(pickle.dumps(in_parts(), 2), "x"), {"a": whole, "big": whole.reshape(2, 5)})


@pytest.mark.parametrize(
    "content",
    [
        in_parts(OriginShape=(2, 6)),
        in_parts(OriginShape=(2**40, 2**40)),
        in_parts(OriginShape=[2, 5]),
        in_parts(slices=["big@@.0", "big@@.2"]),
        in_parts(slices=["big@@.0", "big@@.0"]),
        in_parts(slices=["big@@.0", 3]),
        in_parts(slices=[]),
        {"UnpackBigParamInfor@@": {"big": None}},
        {"UnpackBigParamInfor@@": "big"},
    ],
)
def test_a_wrong_table_of_parts_is_refused(content):
    with pytest.raises(DataError, match=r"^x: UnpackBigParamInfor@@ does not tell how '(big)?' was cut$"):
        read_pdparams(pickle.dumps(content, 2), "x")


class Command:
    def __reduce__(self):
        return os.system, ("exit 1",)


ARRAY = pickle.dumps({"k": np.zeros((2, 3), "float32")}, 4)


def changed(old, new):
    assert ARRAY.count(old) == 1
    return ARRAY.replace(old, new)


@pytest.mark.parametrize(
    ("pickled", "problem"),
    [
        (pickle.dumps({"k": Command()}, 4), f"asks for the global '{os.system.__module__}.system'"),
        (pickle.dumps({"k": Command()}, 2), f"asks for the global '{os.system.__module__}.system'"),
        (pickle.dumps({"k": eval}, 4), "asks for the global 'builtins.eval'"),
        (pickle.dumps(OrderedDict(a=1), 4), "asks for the global 'collections.OrderedDict'"),
        (pickle.dumps({"k": np.float32(1)}, 4), "multiarray.scalar"),
        (pickle.dumps({"k": np.array([None])}, 4), "dtype 'O8'"),
        (pickle.dumps({"k": np.zeros(3, "complex64")}, 4), "dtype 'c8'"),
        (pickle.dumps({"k": np.zeros(3, ">f4")}, 4), "another byte order"),
        (pickle.dumps({"k": 1.5}, 4), "opcode BINFLOAT"),
        (pickle.dumps({"k": 3}, 4), "'k' is no tensor"),
        (pickle.dumps({"k": {"nested": np.zeros(3)}}, 4), "'k' is no tensor"),
        (pickle.dumps({"k": 2**100}, 4), "a number of 13 bytes"),
        (pickle.dumps({3: 3}, 4), "strings for keys"),
        (pickle.dumps([1], 4), "no dictionary"),
        (pickle.dumps({}, 5), "protocol 5, where 2 or 3 or 4"),
        (ARRAY[:-20], "truncated or damaged"),
        (changed(b"K\x02K\x03\x86", b"K\x02K\x04\x86"), "whose 24 bytes are not those of its shape"),
        (changed(b"K\x02K\x03\x86", b"J\xfe\xff\xff\xffJ\xfd\xff\xff\xff\x86"), "not those of its shape"),
        (changed(b"K\x02K\x03\x86", b"NK\x03\x86"), "not those of its shape"),
        (changed(b"K\x02K\x03\x86", b"\x88K\x06\x86"), "not those of its shape"),
        (b"\x80\x04}K\x01K\x02\x93.", "a global has no name"),
        (b"\x80\x04}\x8c\x02\xff\xffNs.", "not UTF-8"),
        (b"\x80\x02}c_codecs\nencode\nX\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1\x86R.", "bytes above 255"),
        (b"\x80\x02}c_codecs\nencode\nNN\x86R.", "no latin1 text"),
        (b"\x80\x02}c_codecs\nencode\nN\x85R.", "no array constructor"),
        (b"\x80\x02}cnumpy\nndarray\nN\x85R.", "no array constructor"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "truncated or damaged"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", "truncated or damaged"),
    ],
)
def test_all_else_is_refused_in_one_line(pickled, problem):
    with pytest.raises(DataError) as refused:
        read_pdparams(pickled, "net.pdparams")
    message = str(refused.value)
    assert message.startswith("net.pdparams: ") and problem in message and "\n" not in message and len(message) < 300


def test_one_text_cannot_become_many_arrays():
    text = b"X" + struct.pack("<I", 100_000) + b"x" * 100_000
    again = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
    pickled = b"\x80\x02}" + text + b"q\x01" + again * 1000 + b"."
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="unpacks to more than it holds"):
            read_pdparams(pickled, "x")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000  # it would be 100 million
    finally:
        tracemalloc.stop()


def test_a_deep_tuple_for_a_name_is_refused():
    deep = b"N" + b"\x85" * 200_000  # to print it, as an error might, would end the process
    for pickled in (b"\x80\x04}" + deep + b"Ns.", b"\x80\x04}" + deep + b"\x8c\x01x\x93."):
        with pytest.raises(DataError, match="is damaged"):
            read_pdparams(pickled, "x")


def test_the_number_of_opcodes_is_limited(monkeypatch):
    monkeypatch.setattr(plain_pickle, "MAX_OPCODES", 100)
    with pytest.raises(DataError, match="over 100 pickle opcodes"):
        read_pdparams(b"\x80\x04" + b"}" * 200, "x")


def read_or_refuse(pickled):
    try:
        found = read_pdparams(pickled, "net.pdparams")
    except DataError as error:
        assert str(error).startswith("net.pdparams: ") and "\n" not in str(error) and len(str(error)) < 400
    else:
        assert all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in found.items())


SAVED = [pickle.dumps({**ARRAYS, **in_parts()}, protocol) for protocol in (2, 3, 4)]


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(data):
    read_or_refuse(damaged(data.draw, data.draw(st.sampled_from(SAVED))))


FRAGMENTS = [
    *(b"(", b"N", b"\x88", b"K\x01", b"J\xff\xff\xff\xff", b"\x8c\x01k", b"\x8c\x02f4", b"}", b"]", b")", b"\x85"),
    *(
        b"\x86",
        b"\x87",
        b"t",
        b"a",
        b"e",
        b"s",
        b"u",
        b"R",
        b"b",
        b"\x94",
        b"h\x01",
        b"q\x01",
        b"\x93",
        b"\x8a\x01\x05",
    ),
    *(b"\x8c\x05numpy", b"\x8c\x07ndarray", b"\x8c\x05dtype", b"\x8c\x06latin1", b"c_codecs\nencode\n"),
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n\x8c\x02f4\x89\x88\x87R", b"cnumpy.core.multiarray\n_reconstruct\n"),
    *(b"\x8c\x15UnpackBigParamInfor@@", b"C\x04abcd", ARRAY[ARRAY.index(b"\x8c\x01k") : -2]),
]


@settings(deadline=None, derandomize=True, max_examples=400)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30))
def test_any_program_of_known_opcodes_is_read_or_refused(fragments):
    read_or_refuse(b"\x80\x04}" + b"".join(fragments) + b".")
