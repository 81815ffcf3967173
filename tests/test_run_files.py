"""The files of a run that somebody else has made: read up to a size, checked where they are used, told in one line."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import run_examples as examples
from damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callbacks import read_history
from cifar_hapi import Run
from cifar_hapi.comparison import compare
from cifar_hapi.errors import CifarHapiError, RecipeError, RunError
from cifar_hapi.recipe import Recipe
from cifar_hapi.recorded_evaluation import recorded_evaluation
from cifar_hapi.resuming import begun_run
from cifar_hapi.run import resumed_run


@pytest.fixture(scope="module")
def made(small_cifar, tmp_path_factory):
    return examples.written_run(tmp_path_factory.mktemp("made") / "run", small_cifar)


@pytest.fixture
def run(made, tmp_path):
    return Run(shutil.copytree(made.path, tmp_path / "run"))


def sparse(file):
    """A file of a terabyte that takes no room on the disk."""
    file.unlink(missing_ok=True)
    with file.open("wb") as stream:
        stream.truncate(2**40)


def pipe(file):
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def deep(file):
    file.write_text(200_000 * "[" + 200_000 * "]" + "\n")


def number(file):
    file.write_text(f'{{"epoch": {5000 * "9"}}}\n')


@pytest.mark.parametrize("damage", [sparse, pipe, deep, number])
@pytest.mark.parametrize("name", ["run.json", "evaluation.json", "history.jsonl", "steps.jsonl"])
def test_what_no_training_writes_is_told_in_one_line(run, name, damage):
    damage(run.path / name)
    read = {
        "run.json": lambda: Run(run.path),
        "evaluation.json": lambda: run.evaluation,
        "history.jsonl": lambda: run.history,
        "steps.jsonl": lambda: run.steps,
    }
    if name in ("history.jsonl", "steps.jsonl") and damage is pipe:
        assert read[name]() == []  # none is there
        return
    with pytest.raises(RunError) as error:
        read[name]()
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [sparse, pipe, deep, number])
def test_a_recipe_that_is_no_text_of_some_lines_is_told_in_one_line(tmp_path, damage):
    file = tmp_path / "mine.toml"
    damage(file)
    with pytest.raises(RecipeError, match=r"mine\.toml") as error:
        Recipe.load(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["0x" + 5000 * "f", 3000 * "[" + 3000 * "]"], ids=["digits", "brackets"])
def test_a_recipe_may_not_hold_numbers_and_lists_without_bounds(tmp_path, value):
    (tmp_path / "mine.toml").write_text(f"epochs = {value}\n")
    with pytest.raises(RecipeError, match="mine") as error:
        Recipe.load(tmp_path / "mine.toml")
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("size", [10, 10**9])
def test_a_label_of_checkpoints_is_not_read_whole(run, size):
    folder = run.path / "checkpoints"
    folder.mkdir(exist_ok=True)
    with (folder / "latest").open("wb") as stream:
        stream.truncate(size)
    with pytest.raises(Exception, match="latest: names no checkpoint"):
        run.checkpoints.labelled("latest")


@pytest.mark.parametrize(
    ("key", "value"), [("earlier", 3), ("earlier", {"a": 1}), ("seconds", "long"), ("seconds", [1.0])]
)
def test_a_training_does_not_go_on_from_a_run_whose_keys_are_of_another_kind(run, key, value):
    (run.path / "run.json").write_text(json.dumps(run.manifest | {key: value}))
    before = (run.path / "history.jsonl").read_bytes()
    with pytest.raises(RunError, match=rf"run\.json: {key}: is no "), resumed_run(run.path, {}, None, _nowhere):
        pass
    assert (run.path / "history.jsonl").read_bytes() == before


def test_infinity_in_run_json_is_told_before_anything_is_written(run):
    text = json.dumps(run.manifest | {"peak_memory": 0}).replace('"peak_memory": 0', '"peak_memory": 1e999')
    (run.path / "run.json").write_text(text)
    with pytest.raises(RunError, match="NaN or infinity"), resumed_run(run.path, {}, None, _nowhere):
        pass
    assert (run.path / "run.json").read_text() == text


def _nowhere(model):
    """Resumes at step 1, so that nothing is asked of checkpoints."""
    from callbacks import ResumePoint

    return ResumePoint(step=1)


def test_weights_that_were_mended_are_told_whatever_they_are_from(run):
    for origin, known in (({"run": "x"}, True), ([1], False), ("x", False)):
        run.manifest["derived_from"] = origin
        (run.path / "run.json").write_text(json.dumps(run.manifest))
        with pytest.raises(RunError, match="from run x" if known else "derived_from: is no dict"):
            begun_run(run.path, run.recipe)


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "a\rb", "\ud800"])
@pytest.mark.parametrize("place", ["key", "class", "evaluation"])
def test_what_commands_a_terminal_is_refused(run, text, place):
    file = run.path / ("evaluation.json" if place == "evaluation" else "run.json")
    content = json.loads(file.read_text())
    if place == "class":
        content["data"]["class_names"][3] = text
    else:
        content |= {text: 1} if place == "key" else {"note": text}
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match="control characters"):
        recorded_evaluation(Run(run.path))


def test_line_ends_and_letters_of_any_script_are_not_refused(run):
    run.update(command=["a\nb\t"], stopped="\u6d4b\u8bd5\u3000\u00a0\U0001f600")
    assert Run(run.path).manifest["command"] == ["a\nb\t"]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_damage_is_a_run_or_one_line(made, tmp_path_factory, data):
    """For what sets runs beside each other, and what goes on with them."""
    path = tmp_path_factory.mktemp("damaged") / "run"
    path.mkdir()
    for name in ("run.json", "evaluation.json", "history.jsonl"):
        shutil.copy(made.path / name, path)
    name = data.draw(st.sampled_from(["run.json", "evaluation.json", "history.jsonl"]))
    (path / name).write_bytes(damaged(data.draw, (path / name).read_bytes()))
    try:
        compare([path])
        begun_run(path, made.recipe)
        assert isinstance(read_history(path / "history.jsonl"), list)
    except CifarHapiError as error:
        assert "\n" not in str(error)
