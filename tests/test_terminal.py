"""What people read when a training has ended."""

from __future__ import annotations

import io
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
        ("eval_acc", "auto", [None, None], "last 2; no validation images, so no best"),
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
