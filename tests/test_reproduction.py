"""The command that trains a recipe again: read as the shell and the program read it, it gives that recipe."""

from __future__ import annotations

import shlex

import pytest
import run_examples as examples
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hapi.cli import train
from cifar_hapi.recipe import Recipe, overrides_by_key, parse_override, tomllib
from cifar_hapi.reproduction import toml_value, train_command


def understood(command):
    """The recipe that `cifar-hapi train` would train."""
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("cifar-hapi", "train")
    given = train.make_context("train", arguments).params
    named = {key: given[key] for key in ("epochs", "batch_size", "seed", "data")}
    changes = overrides_by_key(**named) | dict(map(parse_override, given["overrides"]))
    return Recipe.load(given["recipe"], changes)


class Recorded:
    """As much of a run as is needed."""

    class Data:
        name = "synthetic"

    def __init__(self, recipe):
        self.recipe, self.data, self.manifest = recipe, self.Data(), {"device": "cpu"}


RECIPES = {
    "a built-in one": ("quick", {}),
    "numbers": ("quick", {"optimizer.lr": 1e-8, "epochs": 3, "seed": 7, "batch_size": 64, "data.val_fraction": 0.0}),
    "none as a word": ("quick", {"augment.flip": "none"}),
    "none as nothing": ("quick", {"network.width": None, "data.limit": None}),
    "a section by its defaults": ("quick", {"bn_stats.every_epochs": 1}),
    "a section with other values": ("resnet20", {"early_stopping.monitor": "loss", "averaging.decay": 0.9}),
    "no groups": ("quick", {"optimizer.groups": []}),
    "other groups": ("resnet20", {"optimizer.groups": [{"parameters": '*\'s "x" $HOME', "lr": 0.5}]}),
    "a name of its own": ("resnet20", {"name": "none", "schedule.milestones": [1, 2.5]}),
    "a folder with odd letters": ("quick", {"data.dir": "/tmp/a 'b' \"c\" \\ \x7f é 漢 true"}),
    "words that TOML reads": ("quick", {"network.name": "true"}),
}


@pytest.mark.parametrize("case", RECIPES)
def test_the_command_gives_the_recipe(case):
    recipe = Recipe.load(*RECIPES[case])
    wanted = recipe.with_overrides({"data.source": "synthetic"})
    found = understood(train_command(Recorded(recipe)))
    assert found.to_dict() | {"description": ""} == wanted.to_dict() | {"description": ""}


def test_the_command_is_no_longer_than_it_must_be():
    recipe = Recipe.load("quick", {"epochs": 3, "network.width": 8, "bn_stats.every_epochs": 1})
    options = "--epochs 3 --data synthetic --set network.width=8 --set bn_stats.every_epochs=1 --device cpu"
    assert train_command(Recorded(recipe)) == f"cifar-hapi train quick {options}"


def test_a_run_tells_on_which_data_it_was_where_its_recipe_left_that_open(small_cifar, tmp_path):
    run = examples.written_run(tmp_path / "run", small_cifar)
    assert "--data cifar10 " in train_command(run) and understood(train_command(run)) == run.recipe


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner.filter(lambda each: each is not None), max_size=3),
    max_leaves=5,
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(VALUES.filter(lambda each: each is not None))
def test_values_are_read_by_toml_as_they_were(value):
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value
