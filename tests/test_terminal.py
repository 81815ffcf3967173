"""What people read when a training has ended."""

from __future__ import annotations

import io
import math
import shutil
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from cifar_hapi import terminal
from cifar_hapi.recipe import Recipe

EVALUATION = {"images": 10, "top1": 0.5, "top5": 1.0, "loss": 1.0, "weights": "latest", "data": "cifar10", "note": ""}


def history(monitor, values):
    return [
        {"epoch": number, "seconds": 1.0, "images_per_second": 9.0} | ({} if value is None else {monitor: value})
        for number, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    ("monitor", "mode", "values", "said"),
    [
        ("eval_acc", "auto", [0.1, 0.9, 0.5], "best 2 (eval_acc 0.9000); last 3 (eval_acc 0.5000)"),
        ("eval_loss", "auto", [0.1, 0.9, 0.5], "best 1 (eval_loss 0.1000); last 3 (eval_loss 0.5000)"),
        ("eval_acc", "min", [0.1, 0.9, 0.5], "best 1 (eval_acc 0.1000)"),
        ("eval_acc", "auto", [None, 0.9, None], "best 2 (eval_acc 0.9000)"),
        ("eval_acc", "auto", [None, None], "last 2; eval_acc was not measured, so no best"),
    ],
)
def test_the_best_epoch_is_that_of_the_metric_in_its_direction(monitor, mode, values, said):
    recipe = Recipe.load("quick", {"checkpoint.monitor": monitor, "checkpoint.mode": mode})
    text = io.StringIO()
    terminal.summarise(
        Console(file=text, width=200),
        SimpleNamespace(
            recipe=recipe,
            history=history(monitor, values),
            evaluation=EVALUATION,
            manifest={"seconds": 3.0},
            path="runs/mine",
        ),
    )
    assert f"epochs   {said}" in text.getvalue()


def test_a_result_on_cifar10_stands_beside_the_articles_and_says_how_few_images_that_was():
    text = io.StringIO()
    run = SimpleNamespace(
        recipe=Recipe.load("quick"),
        history=history("eval_acc", [0.5]),
        evaluation=EVALUATION,
        manifest={"seconds": 3.0},
        path="runs/mine",
    )
    terminal.summarise(Console(file=text, width=200), run)
    (line,) = [line for line in text.getvalue().splitlines() if line.startswith("compare")]
    right, images, z = 55, 64, 1.96
    share, spread = right / images, z**2 / images
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / images + spread / (4 * images)) / (1 + spread)
    assert f"{share:.2%}".replace("%", " %") in line and f"{right} right of the first {images}" in line
    assert f"{middle - half:.0%} to {middle + half:.0%}".replace("%", " %") in line
    assert "35.9 points below" in line
    run.evaluation = EVALUATION | {"top1": 0.9005}
    terminal.summarise(Console(file=text, width=200), run)
    assert "compare  4.1 points above an article's 85.94 %" in text.getvalue()


@pytest.mark.parametrize(
    ("found", "there", "program"),
    [
        ("/bin/cifar-hapi", True, "cifar-hapi"),
        (None, True, "'my env/bin/cifar-hapi'"),
        (None, False, "cifar-hapi"),
    ],
)
def test_what_to_type_next_can_be_typed(tmp_path, monkeypatch, found, there, program):
    beside = tmp_path / "my env" / "bin"
    beside.mkdir(parents=True)
    if there:
        (beside / "cifar-hapi").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    monkeypatch.setattr(shutil, "which", lambda name: found)
    text = io.StringIO()
    run = SimpleNamespace(
        recipe=Recipe.load("quick", {"data.dir": "/data of mine"}),
        history=history("eval_acc", [0.5]),
        evaluation=EVALUATION,
        manifest={"seconds": 3.0},
        path="runs/mine",
    )
    terminal.summarise(Console(file=text, width=200), run)
    lines = [line[9:] for line in text.getvalue().splitlines()[-3:]]
    assert lines[0] == f"{program} evaluate runs/mine"
    assert lines[2] == f"{program} train speed94 --data-dir '/data of mine'  (94 %, five times the time)"


@pytest.mark.parametrize(
    ("changes", "data", "hint"),
    [
        ({"seed": 3}, "cifar10", "speed94  (94 %, five times the time)"),
        ({"epochs": 2}, "cifar10", "quick  (90 %, 5 epochs)"),
        ({"epochs": 2, "evaluation.views": "flip"}, "cifar10", "quick  (90 %, 5 epochs)"),
        ({"epochs": 6}, "cifar10", None),
        ({"network.width": 8}, "cifar10", None),
        ({}, "synthetic", None),
    ],
    ids=str,
)
def test_the_next_recipe_is_suggested_after_quick_itself_or_a_shorter_one(monkeypatch, changes, data, hint):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    text = io.StringIO()
    run = SimpleNamespace(
        recipe=Recipe.load("quick", changes),
        history=history("eval_acc", [0.5]),
        evaluation=EVALUATION | {"data": data},
        manifest={"seconds": 3.0},
        path="runs/mine",
    )
    terminal.summarise(Console(file=text, width=200), run)
    last = text.getvalue().splitlines()[-1][9:]
    assert last == (f"cifar-hapi train {hint}" if hint else "cifar-hapi predict runs/mine IMAGE...")


@pytest.mark.parametrize(
    ("speeds", "end"), [([0.0], "3 s in all"), ([9.0, 11.0], "3 s in all; 10 images/s in training")]
)
def test_a_training_without_a_second_step_has_no_speed(speeds, end):
    text = io.StringIO()
    run = SimpleNamespace(
        recipe=Recipe.load("quick"),
        history=[{**history("eval_acc", [0.5])[0], "images_per_second": speed} for speed in speeds],
        evaluation=EVALUATION,
        manifest={"seconds": 3.0},
        path="runs/mine",
    )
    terminal.summarise(Console(file=text, width=200), run)
    assert f"time     {end}" in text.getvalue().splitlines()


def test_test_time_augmentation_is_told_with_the_number_without_it():
    text = io.StringIO()
    evaluation = EVALUATION | {"views": "flip", "without_views": {"top1": 0.4, "loss": 1.0}}
    terminal.headline(Console(file=text, width=200), evaluation)
    assert "averaged over each image and its mirror image; 40.00% without" in text.getvalue()
