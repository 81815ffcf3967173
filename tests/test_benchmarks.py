"""What the benchmarks compute from their measurements, and how parent and child talk; no speed is tested."""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import paddle
import pytest
from engine_comparison import needs_bfloat16

from benchmarks import inference, recipe_steps, serving, speedrun, tiles, timing, winograd
from benchmarks.growth import growth
from benchmarks.inference_worker import by_dygraph, by_inference, by_onnx
from benchmarks.optimizer import measured_rows
from benchmarks.paddle_worker import multiply_adds, network_and_width, parameter_count
from benchmarks.saved_batches import load_batches, save_images
from benchmarks.scaling import ALONE, TOGETHER, break_even, first_of_two
from benchmarks.scaling import figures as scaling_figures
from benchmarks.scaling import show as show_scaling
from benchmarks.scaling import with_ratios as with_scaling_ratios
from benchmarks.tables import markdown_table
from benchmarks.timing import Spread, straight_line, take_turn, warm_up
from benchmarks.training import check_same_work, figures, network_and_batch, show, with_ratios
from benchmarks.worker import Unavailable, Worker, clean_environment, round_robin
from cifar_hapi.engine import winograd as winograd_maps
from cifar_hapi.networks import build_network
from cifar_hapi.recipe import Recipe

# ResNet-20 by hand: 32x32, 16x16 and 8x8 places, times weights: stem 3*16*9, then 6 and 5 convolutions of c*c*9 and one
# of c/2*c*9 a stage, then 64*10. ResNet-18 with CIFAR stem is usually quoted as 0.56 G; speednet says its own.
MULTIPLY_ADDS = {"resnet20": 40_551_040, "resnet56": 125_485_696, "resnet18": 555_422_720, "speednet": 379_261_952}


@pytest.mark.parametrize(("name", "expected"), MULTIPLY_ADDS.items())
def test_multiply_adds_are_those_of_the_layers_shapes(name, expected):
    assert multiply_adds(build_network(name)) == expected


def test_counting_leaves_the_network_as_it_was():
    network = build_network("speednet", width=2)
    before = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    assert multiply_adds(network) == multiply_adds(network) and network.training
    assert all((tensor.numpy() == before[name]).all() for name, tensor in network.state_dict().items())
    assert not any(layer._forward_post_hooks for layer in network.sublayers())


def test_running_statistics_are_no_parameters():
    assert parameter_count(build_network("resnet20")) == 269_722  # 0.27 M in He et al. 2015, table 6


def test_a_straight_line_is_found():
    line = straight_line([1, 2, 4], [5, 7, 11])
    assert (line.intercept, line.slope, line.r_squared) == pytest.approx((3, 2, 1))


def test_r_squared_is_the_share_of_the_variance_explained():
    x, y = np.arange(6), np.array([0, 2, 1, 4, 3, 5])
    residuals = y - np.polyval(np.polyfit(x, y, 1), x)
    assert straight_line(list(x), list(y)).r_squared == pytest.approx(1 - residuals.var() / y.var())


def test_two_points_are_no_straight_line():
    with pytest.raises(ValueError, match="2 points"):
        straight_line([1, 2], [1, 2])


def test_a_spread_is_quartiles():
    spread = Spread.of([4, 1, 3, 2, 5])
    assert (spread.lower, spread.median, spread.upper, spread.count) == (2, 3, 4, 5)
    assert spread.percent == pytest.approx(100 * 2 / 3)
    assert Spread.of([7]) == Spread(7, 7, 7, 1)


@pytest.fixture
def step(monkeypatch):
    """A function that makes steps which last so long, on a clock that only they move."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def lasting(*seconds):
        each = iter(seconds)

        def one():
            now[0] += next(each)

        return one

    return lasting


@pytest.mark.parametrize(
    ("durations", "at_least", "expected"),
    [
        ([0.2, 0.5, 0.5], 1, [0.5, 0.5]),  # the first is short, and not counted
        ([5.0], 1, [5.0]),  # as long as a turn: counted
        ([5.0, 6.0], 2, [5.0, 6.0]),
        ([0.3, 0.8], 1, [0.3, 0.8]),  # a quarter of a turn: counted
        ([0.1, 2.0, 2.0, 2.0], 3, [2.0, 2.0, 2.0]),
    ],
)
def test_a_turn_has_the_steps_that_fit(step, durations, at_least, expected):
    assert take_turn(step(*durations), 1.0, at_least) == pytest.approx(expected)


@pytest.mark.parametrize("durations", [[9.0, 9.0], [1.5, 0.1, 0.5]])
def test_warming_up_takes_two_steps_and_two_seconds(step, durations):
    one = step(*durations)
    warm_up(one)
    with pytest.raises(StopIteration):
        one()


def test_columns_of_numbers_are_set_to_the_right():
    table = markdown_table(["who", "images/s"], [["stock", "7.1"], ["ours", "1,234"]])
    assert table.splitlines() == [
        "| who   | images/s |",
        "|-------|---------:|",
        "| stock |      7.1 |",
        "| ours  |    1,234 |",
    ]


def test_figures_count_two_operations_a_multiply_add():
    found = figures([0.5, 0.5, 0.5], batch_size=100, multiply_adds=3_000_000_000)
    assert (found["images_per_second"], found["gflops"], found["steps"]) == (200, pytest.approx(1200), 3)


def row(contender, training, evaluation):
    works = {"training": training, "evaluation": evaluation}
    found = {work: figures([1.0], speed, 10**9) for work, speed in works.items()}
    return {"network": "resnet20", "batch_size": 128, "contender": contender, "title": contender} | found


ROWS = [row("stock", 10, 100), row("onednn-bfloat16", 60, 300), row("torch-float32", 20, 200), row("torch-x", 40, 150)]


def test_ratios_are_to_stock_and_to_the_best_pytorch():
    ours = with_ratios(ROWS)[1]
    assert (ours["training"]["to_stock"], ours["training"]["to_torch"]) == (6, 1.5)
    assert (ours["evaluation"]["to_stock"], ours["evaluation"]["to_torch"]) == (3, 1.5)


def test_a_ratio_to_what_was_not_measured_is_left_out():
    missing = {
        "network": "resnet20",
        "batch_size": 128,
        "contender": "torch-x",
        "title": "T",
        "missing": "not installed",
    }
    rows = with_ratios([ROWS[1], missing])
    assert rows[0]["training"]["to_stock"] is None and rows[0]["training"]["to_torch"] is None
    assert [len(line.split("|")) for line in show(rows).splitlines()] == [15] * 4
    assert "not installed" in show(rows)


@pytest.mark.parametrize("key", ["parameters", "multiply_adds"])
def test_contenders_that_do_other_work_are_refused(key):
    same = {"parameters": 1, "multiply_adds": 2}
    check_same_work({"a": same, "b": same})
    with pytest.raises(ValueError, match=f"{key} differ: a .*, b 3"):
        check_same_work({"a": same, "b": same | {key: 3}})


@pytest.mark.parametrize(
    "text", ["resnet20", "resnet20:", ":128", "resnet20:0", "resnet20:x", "resnet20:4096", "airbench@:8"]
)
def test_a_network_without_a_possible_batch_size_is_refused(text):
    assert network_and_batch("resnet20:128") == ("resnet20", 128)
    assert network_and_batch("airbench@32:1000") == ("airbench@32", 1000)
    with pytest.raises(argparse.ArgumentTypeError, match="NAME:BATCH"):
        network_and_batch(text)


@pytest.mark.parametrize(("text", "parts"), [("airbench@32", ("airbench", 32)), ("resnet20", ("resnet20", None))])
def test_a_network_may_have_a_width(text, parts):
    assert network_and_width(text) == parts


def test_growth_has_a_line_from_three_points_on():
    points = [(count, Spread.of([10.0 + 8 / count])) for count in (1, 2, 4)]
    assert growth("threads", points)["slope"] == pytest.approx(8)  # over 1 / threads
    assert "slope" not in growth("threads", points[:2])
    assert growth("batch", [(size, Spread.of([2.0 * size])) for size in (1, 2, 3)])["r_squared"] == pytest.approx(1)


def test_updates_are_told_apart_by_network_and_rule():
    (found,) = measured_rows({("fused", "resnet18 adamw"): [0.001, 0.002, 0.003]})
    assert (found["network"], found["rule"], found["contender"]) == ("resnet18", "adamw", "fused")
    assert found["milliseconds"] == pytest.approx(2)


def test_batches_are_whole_and_the_saved_images(tmp_path):
    images, labels = np.arange(5 * 12, dtype=np.float32).reshape(5, 3, 2, 2), np.arange(5)
    save_images(tmp_path / "images.npz", images, labels)
    found = load_batches(tmp_path / "images.npz", 2)
    assert len(found) == 2 and (found[1][0] == images[2:4]).all() and found[1][1].tolist() == [2, 3]
    with pytest.raises(ValueError, match="only 5 images"):
        load_batches(tmp_path / "images.npz", 6)


CHILD = """
import os
from benchmarks import worker, speedrun
worker.warm_up = lambda step: None
noted = ["of the warm-up"]
def notes():
    found = noted[:]
    noted.clear()
    return found
def prepare():
    {prepare}
    print("loud")
    return {{"pid": os.getpid()}}, {{"step": lambda: (noted.append(len(noted)), os.system("echo louder"))}}
worker.serve(prepare, settle=0, noted=notes)
"""


def child(prepare="pass"):
    return Worker([sys.executable, "-c", CHILD.format(prepare=prepare)])


def test_a_child_answers_whatever_it_prints():
    with child() as first, child() as second:
        assert first.about["pid"] != second.about["pid"] and first.works == ["step"]
        samples = round_robin({"a": first, "b": second}, rounds=2, seconds=0.001, at_least=3)
    assert list(samples) == [("a", "step"), ("b", "step")]
    assert all(len(seconds) >= 4 and min(seconds) > 0 for seconds in samples.values())  # two in each of two rounds


def test_a_child_that_cannot_take_part_says_why():
    with pytest.raises(Unavailable, match="no engine here"):
        child("raise worker.Unavailable('no engine here')")


def test_a_child_that_fails_is_an_error_with_its_last_words():
    with pytest.raises(RuntimeError, match=r"ended with status 1\n(.*\n)+.*boom"):
        child("raise KeyError('boom')")


def test_a_child_that_fails_later_is_an_error_too():
    with child() as one, pytest.raises(RuntimeError, match="KeyError: 'other work'"):
        one.measure("other work", 0.001)


def test_settings_of_this_process_do_not_reach_contenders(monkeypatch):
    names = {"OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "FLAGS_paddle_num_threads", "MALLOC_ARENA_MAX", "DNNL_VERBOSE"}
    for name in (*names, "CIFAR_HAPI_DATA"):
        monkeypatch.setenv(name, "3")
    assert "CIFAR_HAPI_DATA" in clean_environment() and not names & clean_environment().keys()


def test_requests_are_counted_and_their_slowest_hundredth_told():
    turns = serving.Turns()
    turns.add(([0.001 * number for number in range(1, 101)], 2.0), 100.0)
    turns.add(([0.5] * 100, 1.0), 120.0)
    found = turns.figures()
    assert (found["requests"], found["requests_per_second"], found["megabytes"]) == (200, 75.0, 120.0)
    assert serving.percentile([0.001 * number for number in range(1, 101)], 99) == pytest.approx(0.099)
    assert serving.percentile([3.0], 50) == 3.0 and found["p99"] == 0.5
    shown = serving.show([{"image": "PNG", "clients": 8, **found}])
    assert [cell.strip() for cell in shown.splitlines()[-1].split("|")][1:6] == ["PNG", "8", "75", "100.0", "500.0"]


def speedrun_result(seconds, views):
    return {"seconds": seconds, "views": views, "plain": 0.93, "precision": "bfloat16"}


def test_a_speedrun_is_compared_with_the_median_time_of_pytorch():
    here, torch = [speedrun_result(600, 0.94), speedrun_result(640, 0.942)], [speedrun_result(1200, 0.941)]
    shown = speedrun.show({"cifar-hapi": here, "PyTorch": torch}, "speed94")
    assert "| `speed94`, bfloat16" in shown and "600 640 |" in shown and "94.00 94.20" in shown
    assert shown.splitlines()[-1].split()[-2] == "0.52"
    assert "PyTorch is not installed" in speedrun.show({"cifar-hapi": here}, "speed94")


def test_a_speedrun_that_was_stopped_keeps_what_it_has_and_takes_turns_at_beginning(tmp_path):
    begun = []

    def training(who, fails_at=None):
        def train(seed):
            begun.append((who, seed))
            if seed == fails_at:
                raise RuntimeError("out of memory")
            return speedrun_result(600 + seed, 0.94)

        return train

    out = tmp_path
    with pytest.raises(RuntimeError):
        speedrun.measure({"cifar-hapi": training("here"), "PyTorch": training("torch", fails_at=1)}, [0, 1], out)
    found = speedrun.measure({"cifar-hapi": training("here"), "PyTorch": training("torch")}, [0, 1], out)
    assert begun == [("here", 0), ("torch", 0), ("torch", 1), ("torch", 1), ("here", 1)]
    assert [result["seconds"] for result in found["PyTorch"]] == [600, 601]


def test_the_steps_of_a_recipe_are_compared_with_those_of_stock_paddle():
    about = {"batch_size": 100, "eval_batch_size": 50, "engine": "onednn", "precision": "float32"}
    samples = {
        ("here", "training"): [0.1, 0.2, 0.3],
        ("stock", "training"): [2.0],
        ("here", "evaluation"): [0.1],
        ("stock", "evaluation"): [0.4, 0.5, 0.6],
    }
    found = recipe_steps.figures(samples, about)
    assert found["training"] == {"here": 500.0, "stock": 50.0, "slowdown": 10.0}
    assert found["evaluation"]["slowdown"] == pytest.approx(5.0)
    shown = recipe_steps.show([{"run": "quick-0", **about, **found}]).splitlines()[-1]
    cells = [cell.strip() for cell in shown.split("|")[1:-1]]
    assert cells == ["quick-0", "onednn, float32", "500", "50.0", "10.0", "500", "100.0", "5.0"]


@pytest.mark.parametrize("stock", [False, True])
def test_a_recipe_is_measured_as_its_run_tells_it(tmp_path, stock):
    changes = {"network.width": 4, "batch_size": 8, "eval_batch_size": 20}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": Recipe.load("quick", changes).to_dict()}))
    options = ["--run", str(tmp_path / "run.json"), *(["--stock"] if stock else [])]
    with Worker([sys.executable, "-m", "benchmarks.recipe_worker", *options]) as worker:
        assert worker.about["engine"] in (("native",) if stock else ("native", "onednn"))
        assert (worker.about["batch_size"], worker.about["eval_batch_size"]) == (8, 20)
        assert all(min(worker.measure(work, 0.001)) > 0 for work in ("training", "evaluation"))


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (7, 7), (100, 99), (101, 100), (1000, 990)])
def test_the_99th_percentile_is_a_time_within_which_99_percent_came(count, expected):
    seconds = list(range(count, 0, -1))
    assert inference.percentile_99(seconds) == expected


def test_answers_are_shown_by_contender_and_batch_and_the_absent_with_their_reason():
    row = {"network": "resnet20", "contender": "onnx", "title": "ONNX"}
    rows = [
        row | {"batch_size": 32} | inference.figures([0.1, 0.2, 0.3], 32),
        {"network": "resnet20", "contender": "torch", "title": "PyTorch", "missing": "not installed"},
    ]
    shown = inference.show(rows).splitlines()
    assert [cell.strip() for cell in shown[2].split("|")[1:-1]] == [
        *("resnet20", "ONNX", "32", "160", "200.00", "300.00", "50 %", "3")
    ]
    assert "absent" in shown[3] and shown[-1] == "resnet20, PyTorch: not installed"


@pytest.mark.parametrize("text", ["0", "x", "-1", "1025"])
def test_a_batch_that_cannot_be_is_refused(text):
    assert inference.batch_size("1024") == 1024
    with pytest.raises(argparse.ArgumentTypeError, match="expected 1 to 1024 images"):
        inference.batch_size(text)


@pytest.mark.parametrize("program", ["dygraph", "inference", "onnx"])
def test_every_program_answers_as_the_network_does(tmp_path, program):
    arguments = argparse.Namespace(engine="native", precision="float32", threads=1, fold_bn=program == "onnx")
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    network = build_network("resnet20", width=2)
    network.eval()
    expected = network(paddle.to_tensor(images)).numpy()
    by = {"dygraph": by_dygraph, "inference": by_inference, "onnx": by_onnx}[program]
    try:
        answer = by(network, arguments)
    except Unavailable as why:
        pytest.skip(str(why))
    np.testing.assert_allclose(answer(images), expected, rtol=1e-3, atol=1e-4)


def test_a_child_notes_only_what_is_counted():
    with child() as found:
        found.measure("step", seconds=0.0, at_least=2)
        assert found.notes == [0, 1]
        found.measure("step", seconds=0.0, at_least=1)
        assert found.notes == [0, 1, 0]


# Two processes take 0.5 s for a batch of 100, 0.1 of them to add up 3 MB.
SCALING = {"network": "resnet20", "batch_size": 100, "processes": 2}
NOTES = [[0.1, 3_000_000], [0.1, 3_000_000], [0.4, 3_000_000]]


def test_break_even_is_where_a_ring_takes_as_long_as_computing():
    row = {**SCALING, **scaling_figures([0.5, 0.5, 0.8], NOTES, 100)}
    eight, many = break_even(row, (8, 1000))
    assert (eight["images_a_worker"], eight["compute_seconds"]) == (50, pytest.approx(0.4))
    assert eight["bytes_sent"] == pytest.approx(2 * 7 / 8 * 3e6)
    assert eight["bits_per_second"] == pytest.approx(8 * 2 * 7 / 8 * 3e6 / 0.4)
    assert many["bits_per_second"] == pytest.approx(8 * 2 * 3e6 / 0.4, rel=2e-3)


def test_scaling_is_by_one_process():
    rows = [
        {**SCALING, "contender": contender, **scaling_figures([seconds] * 3, notes, 100)}
        for contender, seconds, notes in ((ALONE, 0.4, [[0.0, 0]]), (TOGETHER, 0.5, NOTES))
    ]
    alone, together = with_scaling_ratios(rows)
    assert (alone["to_alone"], together["to_alone"]) == pytest.approx((1.0, 0.8))
    last = show_scaling([alone, together]).splitlines()[-1]
    assert [cell.strip() for cell in last.strip("| ").split("|")][2:] == [
        "200",
        "0 %",
        "0.80",
        "500.0 ms",
        "100.0 ms",
        "20.0 %",
        "3.00 MB",
        "3",
    ]


def test_two_processes_meet_at_ports_of_their_own():
    found = first_of_two()
    assert len({found["PADDLE_MASTER"], *found["PADDLE_TRAINER_ENDPOINTS"].split(",")}) == 3


@pytest.mark.skipif(not winograd_maps.available(), reason="installed without a C compiler")
@pytest.mark.parametrize(("channels", "taken"), [(32, "Winograd"), (16, "direct")])
def test_convolutions_are_timed_both_ways_whichever_is_taken(channels, taken):
    row = winograd.measure(16, channels, channels, 8, rounds=1)
    cells = [cell.strip() for cell in winograd.show([row]).splitlines()[-1].strip("| ").split("|")]
    assert cells[:2] == [f"16, {channels} to {channels}, 8x8", taken]
    for way in ("direct", "winograd"):
        assert row[f"{way} forward"] > 0 and row[f"{way} backward"] > 0


@needs_bfloat16
@pytest.mark.parametrize(("side", "strips"), [(8, True), (9, False)])
def test_convolutions_are_timed_in_each_layout_and_in_the_strips_that_are_taken(side, strips, monkeypatch):
    monkeypatch.setattr("cifar_hapi.engine.strips.multiplies_tiles", lambda: True)
    row = tiles.measure(16, 32, 16, side, rounds=1)
    cells = [cell.strip() for cell in tiles.show([row]).splitlines()[-1].strip("|").split("|")]
    assert cells[0] == f"16, 32 to 16, {side}x{side}" and [bool(cell) for cell in cells[1:]] == [True] * 6 + [strips]
    assert row.pop("layer") and min(row.values()) > 0
