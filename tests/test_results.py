"""docs/results/train.py, which makes the runs that docs/results.md tells of."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_hapi import Recipe, Run
from cifar_hapi.recipe import parse_override

FOLDER = Path(__file__).parents[1] / "docs" / "results"
TINY = ("network.width=2", "data.limit=200", "batch_size=50", "epochs=2", "schedule.milestones=[]")


def published(value):
    return importlib.import_module("publish").published(value)


def published_into(names):
    """`publish`, of what it need not read, that notes what it made."""

    def publish(run, target):
        target.mkdir(parents=True)
        (target / "evaluation.json").write_text('{"top1": 0.5, "images": 8, "without_views": {"top1": 0.25}}')
        names.append(target.name)

    return publish


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


def test_one_that_was_stopped_goes_on(train, tmp_path, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(train, "run_command", lambda *arguments: commands.append(arguments[0]))
    monkeypatch.setattr(train, "publish", published_into(commands))
    folder = tmp_path / "runs" / "tiny-0"
    folder.mkdir(parents=True)
    begun = {"status": "interrupted", "recipe": Recipe.load("resnet20", {"data.source": "synthetic"}).to_dict()}
    (folder / "run.json").write_text(json.dumps(begun))
    train.make("tiny-0", train.Trained("resnet20"), seed=0)
    assert commands == ["resume", "tiny-0"]
    told = "tiny-0: 50.00% of all 8 test images with test-time augmentation, 25.00% without\n"
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("place", ["runs", "results"])
def test_one_of_a_recipe_that_has_changed_since_is_not_taken_for_the_same(train, tmp_path, place):
    folder = tmp_path / place / "tiny-0"
    folder.mkdir(parents=True)
    then = Recipe.load("resnet20", {"data.source": "synthetic", "epochs": 3}).to_dict()
    (folder / "run.json").write_text(json.dumps({"status": "finished", "recipe": published(then)}))
    with pytest.raises(SystemExit, match="trained with other epochs than now"):
        train.make("tiny-0", train.Trained("resnet20"), seed=0)


def test_one_of_another_version_is_told_to_be_moved_away(train, tmp_path):
    (tmp_path / "runs" / "tiny-0").mkdir(parents=True)
    then = Recipe.load("resnet20").to_dict() | {"of_another_version": 1}
    (tmp_path / "runs" / "tiny-0" / "run.json").write_text(json.dumps({"recipe": then}))
    with pytest.raises(SystemExit, match=r"tiny-0: trained by another version .*move it away"):
        train.make("tiny-0", train.Trained("resnet20"), seed=0)


def failing(code):
    def fail(*arguments):
        if "bad" in str(arguments):
            raise subprocess.CalledProcessError(code, "cifar-hapi")

    return fail


def test_one_that_fails_is_told_of_after_the_others(train, monkeypatch):
    made = []
    monkeypatch.setattr(train, "run_command", failing(code=3))
    monkeypatch.setattr(train, "publish", published_into(made))
    results = [(name, train.Trained("resnet20"), 0) for name in ("good-0", "bad-0", "good-1")]
    assert train.make_all(results) == "not made: bad-0"
    assert made == ["good-0", "good-1"]


def test_one_that_is_stopped_stops_all(train, monkeypatch):
    monkeypatch.setattr(train, "run_command", failing(code=130))
    with pytest.raises(SystemExit) as ended:
        train.make_all([("bad-0", train.Trained("resnet20"), 0), ("good-0", train.Trained("resnet20"), 0)])
    assert ended.value.code == 130


def test_a_training_has_the_cores_that_the_caller_has(train, monkeypatch):
    """Paddle, once imported, leaves OMP_NUM_THREADS=1 to child processes."""
    started = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setitem(train.CALLERS, "OMP_NUM_THREADS", "7")
    popen = subprocess.Popen

    def noting(command, env):
        started.append(env)
        return popen([sys.executable, "-c", ""])

    monkeypatch.setattr(subprocess, "Popen", noting)
    train.run_command("doctor")
    assert started[0]["OMP_NUM_THREADS"] == "7"


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_that_is_told_to_end_is_waited_for(train, monkeypatch, number, code):
    """SIGTERM reaches this program alone, Ctrl-C both: as from a terminal."""
    saving = """
import os, signal, sys
told = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, told)
sys.stdin.read()  # until it is waited for
os.kill(os.getppid(), int(sys.argv[1]))
if int(sys.argv[1]) == signal.SIGINT:
    os.kill(os.getpid(), signal.SIGINT)
sys.exit(128 + signal.sigwait(told))
"""

    class Child(subprocess.Popen):
        def __init__(self, command, env):
            super().__init__([sys.executable, "-c", saving, str(int(number))], stdin=subprocess.PIPE)

        def wait(self, timeout=None):
            self.stdin.close()
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Child)
    with pytest.raises(subprocess.CalledProcessError) as ended:
        train.run_command("train")
    assert ended.value.returncode == code


def test_a_name_that_is_no_result_is_refused(train, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "quick", "quack"])
    with pytest.raises(SystemExit, match="quack: not among the results, which are quick, "):
        train.main()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["quick"], ["quick-0", "quick-1", "quick-2"]),
        (["--under", "bfloat16", "resnet20", "speed95"], ["bfloat16/resnet20-0", "bfloat16/speed95-0"]),
    ],
)
def test_all_seeds_of_what_is_asked_for_are_made_in_the_folder_that_is_named(arguments, expected, train, monkeypatch):
    made = []
    monkeypatch.setattr("sys.argv", ["train.py", *arguments])
    monkeypatch.setattr(train, "make_all", lambda results: made.extend(results))
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert [name for name, *_ in made] == expected and ended.value.code is None


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (
            {"network": {"pretrained": "/home/ann/weights.pdparams", "name": "resnet18"}},
            {"network": {"name": "resnet18"}},
        ),
        ({"pretrained": "imagenet"}, {"pretrained": "imagenet"}),
        ({"source": "cifar10", "dir": "data/here"}, {"source": "cifar10"}),
        ([{"command": ["cifar-hapi", "train"], "seed": 1}], [{"seed": 1}]),
    ],
)
def test_what_names_folders_is_not_published(train, value, kept):
    assert published(value) == kept


def test_recipes_and_changes_of_the_table_can_be_read(train):
    for trained in train.ALL.values():
        Recipe.load(trained.recipe, dict(map(parse_override, trained.changes)))
