"""The file of batch-norm statistics: what it holds comes back bit for bit, and whatever else is in it is one line."""

from __future__ import annotations

import base64
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks import load_bn_stats
from callbacks.bn_file import StatsFile, format_header, format_record
from callbacks.bn_layout import CHANGES, MOST_NUMBERS, SUMMARY, TENSORS, Layout, summary

FLOATS = st.floats(width=32) | st.sampled_from([np.nan, np.inf, -np.inf, -0.0])
NAMES = st.text(max_size=5).filter(str.isprintable)


@st.composite
def layouts(draw):
    layers = draw(st.dictionaries(NAMES, st.integers(1, 4), min_size=1, max_size=3))
    norms = draw(st.sampled_from([(), CHANGES[:1], CHANGES]))
    return Layout(layers, TENSORS[: draw(st.integers(1, 4))], norms, summarised=draw(st.booleans()))


def written(path, layout, moments, rows):
    file = StatsFile(path, layout)
    file.begin()
    for (step, epoch), row in zip(moments, rows, strict=True):
        file.append(step, epoch, row)
    return path


def two_layers(summarised=False):
    return Layout({"stem": 2, "block.bn": 3}, ("running_mean", "scale"), ("scale_change",), summarised)


def example(path, summarised=False, moments=((0, 0), (5, 1), (10, 2), (12, 2))):
    """Four records of two layers whose numbers count up."""
    layout = two_layers(summarised)
    rows = np.arange(len(moments) * layout.width, dtype="float32").reshape(len(moments), -1)
    return written(path, layout, moments, rows), rows


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_every_number_comes_back_bit_for_bit(tmp_path_factory, data):
    layout = data.draw(layouts())
    steps = sorted(data.draw(st.sets(st.integers(0, 2**62), max_size=3)))
    numbers = st.lists(FLOATS, min_size=layout.width, max_size=layout.width)
    rows = np.array([data.draw(numbers) for _ in steps], "float32").reshape(len(steps), layout.width)
    path = written(tmp_path_factory.mktemp("bn") / "bn.jsonl", layout, [(step, 0) for step in steps], rows)
    records = load_bn_stats(path)
    assert records.steps.tolist() == steps and records.channels == layout.layers
    for layer, quantity, place in layout.places():
        assert records[layer, quantity].tobytes() == np.ascontiguousarray(rows[:, place]).tobytes()


def test_arrays_have_the_shapes_that_pictures_need(tmp_path):
    path, rows = example(tmp_path / "bn.jsonl")
    records = load_bn_stats(path)
    assert repr(records) == "BatchNormRecords(4 records of 2 layers, all channels)"
    assert records.layers == ("stem", "block.bn") and records.channels == {"stem": 2, "block.bn": 3}
    assert records.quantities == ("running_mean", "scale", "scale_change")
    for times in (records.steps, records.epochs):
        assert times.dtype == np.int64
    assert (records.steps.tolist(), records.epochs.tolist()) == ([0, 5, 10, 12], [0, 1, 2, 2])
    np.testing.assert_array_equal(records["stem", "scale"], rows[:, 2:4])
    np.testing.assert_array_equal(records["block.bn", "running_mean"], rows[:, 5:8])
    np.testing.assert_array_equal(records["block.bn", "scale_change"], rows[:, 11])
    np.testing.assert_array_equal(records.over_layers("scale_change"), rows[:, [4, 11]].T)
    np.testing.assert_array_equal(records.over_layers("running_mean"), [rows[:, :2].mean(1), rows[:, 6]])
    np.testing.assert_array_equal(records.over_layers("running_mean", "max"), rows[:, [1, 7]].T)
    assert [records.at_epoch(epoch) for epoch in (0, 1, 2)] == [0, 1, 3]


def test_summaries_are_read_as_they_are_and_channels_are_summarised(tmp_path):
    path, rows = example(tmp_path / "bn.jsonl", summarised=True)
    records = load_bn_stats(path)
    np.testing.assert_array_equal(records["stem", "running_mean"], rows[:, :6])
    np.testing.assert_array_equal(records.summary("stem", "running_mean"), rows[:, :6])
    np.testing.assert_array_equal(records.over_layers("scale", "norm"), rows[:, [11, 24]].T)
    records = load_bn_stats(example(path)[0])
    found = dict(zip(records.SUMMARY, records.summary("block.bn", "scale")[0], strict=True))
    assert found == {"min": 8, "q1": 8.5, "median": 9, "q3": 9.5, "max": 10, "norm": np.float32(np.sqrt(245))}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_a_summary_is_what_numpy_says(values):
    array = np.array(values, "float32")
    quantiles = np.quantile(array.astype("float64"), [0, 0.25, 0.5, 0.75, 1])
    expected = np.array([*quantiles, np.linalg.norm(array.astype("float64"))])
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(summary(array), expected.astype("float32"), rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, np.nan, 2], [np.nan] * 6),
        ([1, np.inf], [1, np.inf, np.inf, np.inf, np.inf, np.inf]),
        ([np.inf] * 3, [np.inf] * 6),
        ([-np.inf, 1, 2], [-np.inf, -np.inf, 1, 1.5, 2, np.inf]),
        ([-np.inf, np.inf], [-np.inf, np.nan, np.nan, np.nan, np.inf, np.inf]),
    ],
)
def test_a_summary_of_what_is_not_finite(values, expected):
    np.testing.assert_array_equal(summary(np.array(values, "float32")), np.array(expected, "float32"))


@pytest.mark.parametrize("summarised", [False, True])
def test_the_tidy_table_has_a_row_for_each_number(tmp_path, summarised):
    path, rows = example(tmp_path / "bn.jsonl", summarised)
    table = list(load_bn_stats(path).rows())
    assert [row["value"] for row in table] == rows.ravel().tolist()
    parts = [*SUMMARY] if summarised else [0, 1]
    assert [row["part"] for row in table[: len(parts)]] == parts
    norm = table[2 * len(parts)]
    assert norm == {
        "step": 0,
        "epoch": 0,
        "layer": "stem",
        "quantity": "scale_change",
        "part": None,
        "value": 2 * len(parts),
    }
    assert table[-1]["step"] == 12 and table[-1]["layer"] == "block.bn"


def test_pandas_gets_the_same_table(tmp_path, monkeypatch):
    """A stand-in takes the columns as `pandas.DataFrame` does, so that the test needs no pandas."""
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda columns: columns))
    records = load_bn_stats(example(tmp_path / "bn.jsonl")[0])
    columns = records.to_pandas()
    rows = [dict(zip(columns, each, strict=True)) for each in zip(*columns.values(), strict=True)]
    assert rows == list(records.rows())


def test_without_pandas_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_pandas needs pandas: pip install pandas"):
        load_bn_stats(example(tmp_path / "bn.jsonl")[0]).to_pandas()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda records: records["stm", "scale"], "no layer 'stm'; there are: stem, block.bn"),
        (lambda records: records["stem", "shift"], "no quantity 'shift'; there are: running_mean, scale, scale_change"),
        (lambda records: records.summary("stem", "scale_change"), "'scale_change' is one number for the layer"),
        (lambda records: records.over_layers("scale", "mean"), "no column 'mean'; there are: min, q1, median"),
        (lambda records: records.at_epoch(7), r"no record in epoch 7; there are some in \[0, 1, 2\]"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(tmp_path, ask, message):
    with pytest.raises(KeyError, match=message):
        ask(load_bn_stats(example(tmp_path / "bn.jsonl")[0]))


def test_a_file_without_records_has_arrays_of_length_none(tmp_path):
    records = load_bn_stats(written(tmp_path / "bn.jsonl", two_layers(), [], []))
    assert len(records) == 0 and records["stem", "scale"].shape == (0, 2) and list(records.rows()) == []


def test_a_last_line_cut_short_anywhere_is_left_out(tmp_path):
    path, _ = example(tmp_path / "bn.jsonl")
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert load_bn_stats(path).steps.tolist() == [0, 5, 10]


def test_the_documented_form_can_be_read_without_this_package(tmp_path):
    path, rows = example(tmp_path / "bn.jsonl")
    header, *lines = path.read_text().splitlines()
    assert json.loads(header) == {
        "format": "batch-norm statistics",
        "version": 1,
        "channels": "all",
        "layers": {"stem": 2, "block.bn": 3},
        "per_channel": ["running_mean", "scale"],
        "norms": ["scale_change"],
    }
    found = [np.frombuffer(base64.b64decode(json.loads(line)["values"]), "<f4") for line in lines]
    np.testing.assert_array_equal(found, rows)


def header(**changes):
    return {**json.loads(format_header(two_layers())), **changes}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (json.dumps(header()), "the line has no end"),
        ("{" * 100_000 + "\n", "invalid json"),
        ("[1]\n", "input should be an object"),
        (json.dumps(header(format="other")) + "\n", "format: input should be 'batch-norm statistics'"),
        (json.dumps(header(version=2)) + "\n", "version: input should be 1"),
        (json.dumps(header(channels="some")) + "\n", "channels: input should be 'summary' or 'all'"),
        (json.dumps(header(layers={})) + "\n", "layers: "),
        (json.dumps(header(layers={"a": 0})) + "\n", "layers: input should be greater than or equal to 1"),
        (json.dumps(header(layers={"a": 2.5})) + "\n", "layers: "),
        (json.dumps(header(layers={"a": 2**30})) + "\n", f"numbers in a record: more than {MOST_NUMBERS}"),
        (json.dumps(header(layers={"a\x1b[2J": 2})) + "\n", "the name of a layer is not printable"),
        (json.dumps(header(norms=["x"])) + "\n", "quantities that are unknown or named twice"),
        (json.dumps(header(per_channel=["scale", "scale"])) + "\n", "quantities that are unknown or named twice"),
    ],
)
def test_a_header_that_is_none_is_named(tmp_path, text, message):
    path = tmp_path / "bn.jsonl"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=f"bn.jsonl, line 1: no header of batch-norm statistics: .*{message}"
    ) as raised:
        load_bn_stats(path)
    assert str(raised.value).isprintable()


ROW = np.zeros(two_layers().width, "float32")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense\n", "not a record"),
        (b"\x00\xff\n", "not a record"),
        (b"[]\n", "not a record"),
        (b'{"step": 9, "epoch": 1}\n', "not a record"),
        (b'{"step": true, "epoch": 1, "values": ""}\n', "not a record"),
        (b'{"step": -1, "epoch": 1, "values": ""}\n', "not a record"),
        (b'{"step": 9, "epoch": 1, "values": "***="}\n', "not a record"),
        (b'{"step": 9, "epoch": 1, "values": "AAAA"}\n', "3 bytes of values, not 48"),
        (format_record(5, 1, ROW), "step 5 comes after step 5"),
        (format_record(4, 1, ROW), "step 4 comes after step 5"),
        (format_record(9, 0, ROW), "step 9 comes after step 5"),
        (format_record(2**63, 1, ROW), "not a record"),
        (b"x" * 500, "not a record"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line, message):
    path, _ = example(tmp_path / "bn.jsonl", moments=((0, 0), (5, 1)))
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(ValueError, match=f"bn.jsonl, line 4: {message}"):
        load_bn_stats(path)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_any_damage_is_records_or_one_line(tmp_path_factory, data):
    """Bytes are exchanged, taken out and put in anywhere."""
    path = tmp_path_factory.mktemp("bn") / "bn.jsonl"
    whole = example(path)[0].read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 9)))
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=9)) + whole[end:])
    try:
        records = load_bn_stats(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}, line ") and str(error).isprintable()
    else:
        assert (np.diff(records.steps) > 0).all() and len(list(records.rows())) == records._values.size


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder; name the file, of a run .*bn/stats\.jsonl"):
        load_bn_stats(tmp_path)
