"""docs/pictures: what is drawn of results is what they say."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Runs docs/pictures/NAME.py with files of `tmp_path` as its arguments; the text of the picture, its last one."""
    monkeypatch.syspath_prepend(str(PICTURES))

    def run(name, *files):
        monkeypatch.setattr(sys, "argv", [name, *(str(tmp_path / file) for file in files)])
        importlib.import_module(name).main()
        picture = (tmp_path / files[-1]).read_text(encoding="utf-8")
        return re.findall(r"<text[^>]*>([^<]*)</text>", picture)

    return run


ROW = {  # of benchmarks.recipe_steps
    "training": {"slowdown": 10.0},
    "evaluation": {"here": 3600.0, "slowdown": 4.0},
    "engine": "onednn",
    "precision": "float32",
}


def result(folder, top1, epochs=2, views="plain", seconds=100.0, held_out=1000):
    folder.mkdir(parents=True)
    parts = {"test": {"images": 10_000, "sha256": ""}}
    if held_out:
        parts["val"] = {"images": held_out, "sha256": ""}
    about = {"seconds": seconds, "data": {"parts": parts}, "engine": "onednn", "precision": "float32"}
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "evaluation.json").write_text(json.dumps({"top1": top1, "views": views}))
    records = [{"epoch": n, "seconds": 30.0, "acc": 0.4 + n / 10} for n in range(1, epochs + 1)]
    if held_out:
        records = [record | {"eval_acc": 0.5 + record["epoch"] / 10} for record in records]
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_time_of_stock_paddle_is_that_of_its_steps_and_evaluations_and_else_the_runs(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(PICTURES))
    module = importlib.import_module("time_to_accuracy")
    for seed, top1 in enumerate((0.90, 0.92)):
        result(tmp_path / f"quick-{seed}", top1, views="flip_shift")
    found = module.course("quick", [module.read_run(tmp_path / f"quick-{seed}") for seed in (0, 1)])
    assert (found.seeds, found.test, found.held_out) == (2, 91.0, (60.0, 70.0))
    assert (found.training, found.whole, found.evaluated) == ((0.5, 1.0), pytest.approx(100 / 60), 72_000)
    # 60 s of training, 20 of evaluation, 20 of all else
    training, whole = found.under(ROW)
    assert training == (5.0, 10.0) and whole == pytest.approx((600 + 80 + 20) / 60)


def test_a_recipe_that_holds_no_images_out_has_its_dots_alone(drawn, tmp_path):
    result(tmp_path / "results" / "speed94-0", 0.94, views="flip_shift", held_out=0)
    (tmp_path / "steps.json").write_text(json.dumps({"rows": [{"run": "speed94-0", **ROW}]}))
    text = drawn("time_to_accuracy", "results", "steps.json", "picture.svg")
    assert {"speed94, 1 seed", "94.0 %, 6 views"} <= set(text)


def test_accuracy_by_time_says_seeds_views_and_what_is_extrapolated(drawn, tmp_path):
    result(tmp_path / "results" / "quick-0", 0.9, views="flip_shift")
    result(tmp_path / "results" / "resnet20-0", 0.8)
    result(tmp_path / "results" / "resnet20-4-epochs", 0.1)  # none of train.py's
    rows = [{"run": "quick-0", **ROW}, {"run": "resnet20-0", **ROW}]
    (tmp_path / "steps.json").write_text(json.dumps({"rows": rows}))
    text = drawn("time_to_accuracy", "results", "steps.json", "picture.svg")
    assert {"quick, 1 seed", "ResNet-20, 1 seed", "90.0 %, 6 views", "80.0 %"} <= set(text)
    assert "stock Paddle, extrapolated from measured steps" in text
    (tmp_path / "steps.json").write_text(json.dumps({"rows": [row | {"precision": "bfloat16"} for row in rows]}))
    with pytest.raises(SystemExit, match=r"measured with another precision than .*quick-0 was trained with"):
        drawn("time_to_accuracy", "results", "steps.json", "picture.svg")
    (tmp_path / "steps.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(SystemExit, match=r"nothing of quick; python -m benchmarks.recipe_steps .*quick-0"):
        drawn("time_to_accuracy", "results", "steps.json", "picture.svg")


def test_depths_are_drawn_side_by_side(drawn, tmp_path):
    for name in ("plain20", "plain56", "resnet20", "resnet56"):
        result(tmp_path / "results" / f"{name}-0", 0.8, epochs=3)
    text = drawn("depth", "results", "picture.svg")
    assert {"plain20", "plain56", "resnet20", "resnet56", "error, %", "epoch"} <= set(text)
