"""The table of batch norms: what it shows at each width, and of what is missing or broken."""

from __future__ import annotations

import io

import bn_examples as examples
import numpy as np
import pytest
from rich.console import Console

from cifar_hapi.batch_norm.table import show, show_summary


def shown(inspection, width=80, encoding="utf-8", by=show):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    by(Console(file=file, width=width, highlight=False, markup=False, legacy_windows=False), inspection)
    file.flush()
    return file.buffer.getvalue().decode(encoding).splitlines()


def table(lines):
    """The lines of the layers and the heading above them."""
    begin = next(place for place, line in enumerate(lines) if line.startswith("layer "))
    end = lines.index("", begin)
    return lines[begin], [line.rstrip() for line in lines[begin + 1 : end]]


@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize(
    ("width", "heading"),
    [
        (60, ["layer", "mean", "var", "scale", "shift", "off", "off", "x"]),
        (80, ["layer", "mean", "variance", "scale", "shift", "in", "time", "off", "off", "x"]),
        (120, ["layer", "mean", "variance", "scale", "shift", "in", "time", "off", "off", "x"]),
    ],
)
def test_each_layer_has_one_line_at_any_width(count, width, heading):
    head, lines = table(shown(examples.example(count), width))
    assert head.split() == heading
    assert [line.split()[0] for line in lines] == examples.names(count)
    assert max(map(len, lines)) <= width
    assert all(line.endswith("1.50") and "┿" in line for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal_but_those_to_be_copied(width):
    copied = ("run ", "not recorded")
    lines = shown(examples.inspection([examples.layer("a" * 90, away=(9e9, 9e9))], findings=[]), width)
    assert [line for line in lines if len(line.rstrip()) > width and not line.startswith(copied)] == []


def test_long_names_keep_their_begin_and_their_end():
    _, (line,) = table(shown(examples.inspection([examples.layer("begin" + "-" * 60 + "end")])))
    assert line.startswith("begin--") and "end " in line and "…" in line


BOXES = [
    ([0, 1, 2, 3, 4], "─━┿━─"),
    ([2, 2, 2, 2, 2], "  ┿"),
    ([0, 0, 0, 4, 4], "┿━━━━"),
    ([0, 0, 0, 0, 4], "┿────"),
]


@pytest.mark.parametrize(("values", "box"), BOXES)
def test_a_box_plot_has_the_quartiles_on_the_axis_of_all_layers(values, box):
    rows = [examples.layer("a", 5, shift=np.array(values, "float32")), examples.layer("b", 5)]
    rows[1].tensors["shift"][:] = [0, 1, 2, 3, 4]
    for each in rows:
        each.tensors["scale"][:] = 1  # no bars but a mark, so that those of the last column are at its begin
    head, lines = table(shown(examples.inspection(rows), 5 + 4 * 6))
    assert lines[0][head.index("shift") :] == box


def test_variances_are_on_a_logarithmic_axis_with_0_and_below_at_its_left_end():
    variances = np.array([-1, 1, 10, 100, 1000], "float32")
    rows = [examples.layer("a", 5, running_variance=variances)]
    lines = shown(examples.inspection(rows), 5 + 4 * 6)
    head, (line,) = table(lines)
    assert line[head.index("var") :].split()[0] == "━┿━━─"
    assert "1 to 1e+03 (logarithmic)" in " ".join(line.strip() for line in lines)


@pytest.mark.parametrize(
    ("name", "values", "cell"),
    [
        ("running_mean", [np.nan, 1], "1 NaN"),
        ("running_variance", [np.inf, 1], "1 inf"),
        ("scale", [np.nan, np.inf], "2 NaN"),
    ],
)
def test_what_is_no_number_is_counted(name, values, cell):
    broken = examples.layer("broken", 2, **{name: np.array(values, "float32")})
    _, lines = table(shown(examples.inspection([broken, examples.layer("whole", 2)])))
    assert cell in lines[0] and cell not in lines[1]


def test_all_that_is_no_number_is_still_a_table():
    nothing = dict.fromkeys(examples.tensors(2), np.full(2, np.nan, "float32"))
    _, (line,) = table(shown(examples.inspection([examples.layer("a", 2, **nothing)])))
    assert line.split() == ["a", *["2", "NaN"] * 4]


def test_a_layer_without_scale_says_so():
    bare = examples.layer("bare")
    del bare.tensors["scale"]
    _, lines = table(shown(examples.inspection([bare, examples.layer("whole")])))
    assert "none" in lines[0] and "none" not in lines[1]
    head, _ = table(shown(examples.inspection([bare])))
    assert head.split() == ["layer", "mean", "variance", "shift"]


def test_without_records_it_says_how_to_record():
    lines = shown(examples.inspection([examples.layer("a")]))
    assert any("--set bn_stats.every_epochs=1" in line and "[bn_stats]" in line for line in lines)
    assert not any("every_epochs" in line for line in shown(examples.example()))


def test_courses_rise_where_the_median_variance_does():
    def spoil(layout, rows):
        rows[:, layout.place("a", "running_variance")] = np.array([1, 10, np.nan, 1000])[:, None]

    recorded = examples.records({"a": 4}, moments=4, spoil=spoil)
    _, (line,) = table(shown(examples.inspection([examples.layer("a", 4)], recorded)))
    assert line.endswith("▁▃!█")


def test_findings_follow_the_table():
    lines = shown(examples.example())
    summary = next(place for place, line in enumerate(lines) if line.startswith("1 error, 1 warning: 3 batch norms"))
    assert summary > lines.index(table(lines)[0])
    assert lines[summary + 2 : summary + 4] == [
        "error: lagging-statistics",
        "    stage0.2.norm, channels 1, 2: off 0.5",
    ]
    healthy = shown(examples.inspection([examples.layer("a", away=(0, 1))], findings=[]))
    assert healthy[-1] == "nothing found: 1 batch norm, 100 images, 21 rules" and "off" in table(healthy)[0]
    assert "off" not in table(shown(examples.inspection([examples.layer("a")])))[0]


def test_a_terminal_without_unicode_has_a_table_too():
    _, lines = table(shown(examples.example(), encoding="ascii"))
    assert all("|" in line and line.isascii() for line in lines)


def test_the_summary_is_one_line():
    assert shown(examples.example(), by=show_summary) == ["1 error, 1 warning: 3 batch norms, 100 images, 21 rules"]
    healthy = examples.inspection([examples.layer("a", away=(0, 1))], findings=[])
    assert shown(healthy, by=show_summary) == ["nothing found: 1 batch norm, 100 images, 21 rules"]
    assert shown(examples.inspection([examples.layer("a")]), by=show_summary) == ["1 batch norm, not diagnosed"]
