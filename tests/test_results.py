"""docs/results/train.py, which makes the runs that docs/results.md tells of."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from cifar_hapi import Run

FOLDER = Path(__file__).parents[1] / "docs" / "results"
TINY = ("network.width=2", "data.limit=200", "batch_size=50", "epochs=2", "schedule.milestones=[]")


@pytest.fixture
def train(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("train")
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "DATA", "synthetic")
    return module


def test_a_result_is_made_once_and_published_without_folders(train, tmp_path, capfd):
    one = train.Trained("resnet20", TINY)
    train.make("tiny-0", one, seed=3)
    text = (tmp_path / "results" / "tiny-0" / "run.json").read_text(encoding="utf-8")
    assert json.loads(text)["recipe"]["seed"] == 3 and str(tmp_path) not in text
    assert Run(tmp_path / "runs" / "tiny-0").status == "finished"
    capfd.readouterr()
    train.make("tiny-0", one, seed=3)
    assert capfd.readouterr().out == "tiny-0: there\n"


def test_one_that_was_stopped_goes_on(train, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(train, "run_command", lambda *arguments: commands.append(arguments[0]))
    monkeypatch.setattr(train, "publish", lambda run, target: commands.append("publish"))
    monkeypatch.setattr(train, "told", lambda file: {"top1": 0.5})
    folder = tmp_path / "runs" / "tiny-0"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"status": "interrupted"}')
    train.make("tiny-0", train.Trained("resnet20"), seed=0)
    assert commands == ["resume", "publish"]


def test_recipes_and_changes_of_the_table_can_be_read(train):
    from cifar_hapi import Recipe
    from cifar_hapi.recipe import parse_override, recipe_names

    for name, trained in train.ALL.items():
        if trained.recipe in recipe_names():
            Recipe.load(trained.recipe, dict(map(parse_override, trained.changes)))
        else:
            assert name == "article-32"  # joins with pretrained weights
