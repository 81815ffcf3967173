"""Recipes: declared as data, checked when they are read, and errors that name the key and the way out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hapi.errors import RecipeError
from cifar_hapi.networks import network_names
from cifar_hapi.recipe import Recipe, known_keys, parse_override, recipe_names, recipe_text


@pytest.mark.parametrize("name", recipe_names())
def test_every_built_in_recipe_is_whole(name):
    recipe = Recipe.load(name)
    assert recipe.name == name and len(recipe.description) > 20
    assert recipe.network.name in network_names()


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_survives_json(name):
    recipe = Recipe.load(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_a_file_of_ones_own_works_as_a_built_in_does(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(recipe_text("resnet20") + "\n[checkpoint]\nkeep = 3\n")
    recipe = Recipe.load(file)
    assert (recipe.name, recipe.checkpoint.keep) == ("mine", 3)
    assert Recipe.load(str(file)) == recipe
    assert recipe.optimizer == Recipe.load("resnet20").optimizer


def test_overrides_change_single_keys():
    recipe = Recipe.load("resnet20", {"epochs": 3, "optimizer.lr": 1, "data.limit": 100, "network.width": None})
    assert (recipe.epochs, recipe.optimizer.lr, recipe.data.limit, recipe.network.width) == (3, 1.0, 100, None)
    assert recipe.with_overrides({"epochs": 4}).epochs == 4 and recipe.epochs == 3


def test_a_recipe_cannot_be_changed():
    with pytest.raises(AttributeError):
        Recipe.load("resnet20").epochs = 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optimizer.lrr": 1}, "optimizer.lrr is not a key; did you mean optimizer.lr?"),
        ({"optimzer.lr": 1}, "optimzer is not a key; did you mean optimizer?"),
        ({"epoch": 3}, "epoch is not a key; did you mean epochs?"),
        ({"cutout": 8}, "cutout is not a key; did you mean augment.cutout?"),
        ({"network.label_smoothing": 0}, "network.label_smoothing is not a key; did you mean loss.label_smoothing?"),
        ({"checkpoint.zebra": 3}, "checkpoint.zebra is not a key; checkpoint has every_epochs, every_steps, "),
        ({"zebra": 3}, "zebra is not a key; a recipe has name, "),
        ({"optimizer.lr": -0.1}, "optimizer.lr = -0.1: input should be greater than 0"),
        ({"optimizer.lr": "fast"}, "optimizer.lr = 'fast': input should be a valid number"),
        ({"optimizer.lr": float("nan")}, "optimizer.lr = nan: input should be a finite number"),
        ({"optimizer.momentum": 1.0}, "optimizer.momentum = 1.0: input should be less than 1"),
        ({"optimizer": 3}, "optimizer = 3: input should be an object"),
        ({"epochs": 1.5}, "epochs = 1.5: input should be a valid integer"),
        ({"epochs": 0}, "epochs = 0: input should be greater than or equal to 1"),
        ({"epochs": True}, "epochs = True: input should be a valid integer"),
        ({"epochs.x": 1}, "override epochs.x: epochs is a value, not a section"),
        ({"seed": -1}, "seed = -1: input should be greater than or equal to 0"),
        ({"augment.flip": "never"}, "augment.flip = 'never': input should be 'random', 'alternating' or 'none'"),
        ({"augment.crop_padding": 32}, "augment.crop_padding = 32: must be below data.image_size = 32"),
        ({"augment.cutout": 33}, "augment.cutout = 33: must be at most data.image_size = 32"),
        ({"data.val_fraction": 1.0}, "data.val_fraction = 1.0: input should be less than 1"),
        (
            {"augment.small_size": 32, "augment.small_epochs": 1},
            "augment.small_size = 32: must be below data.image_size",
        ),
        (
            {"augment.small_epochs": 1},
            "augment.small_epochs = 1: goes with augment.small_size = None: set both or none",
        ),
        ({"augment.small_size": 8}, "augment.small_epochs = 0: goes with augment.small_size = 8: set both or none"),
        (
            {"augment.small_size": 8, "augment.small_epochs": 9, "epochs": 9},
            "augment.small_epochs = 9: must be below epochs = 9",
        ),
        ({"network.num_classes": 1}, "network.num_classes = 1: input should be greater than or equal to 2"),
        ({"network.shortcut": "C"}, "network.shortcut = 'C': input should be 'A' or 'B'"),
        ({"schedule.milestones": [3, "x"]}, "schedule.milestones.1 = 'x': input should be a valid number"),
        ({"schedule.milestones": [3, 2]}, "schedule.milestones = [3.0, 2.0]: must rise"),
        ({"schedule.warmup_epochs": 10, "epochs": 10}, "schedule.warmup_epochs = 10.0: must be below epochs = 10"),
        (
            {"network.norm": "none", "bn_stats.every_epochs": 1},
            "network.norm = none: leaves bn_stats nothing to record",
        ),
        ({"optimizer.name": "adam", "optimizer.nesterov": True}, "optimizer.nesterov = True: needs optimizer.name"),
        ({"data.store": "s"}, "data.store = s: is for image folders; data.source = auto is kept in memory"),
        ({"checkpoint.monitor": "eval_accuracy"}, "checkpoint.monitor = 'eval_accuracy': input should be 'eval_acc'"),
        ({"name": "../../escape"}, "name = '../../escape'"),
        ({"name": ""}, "name = ''"),
        ({"precision": "float8"}, "precision = 'float8': input should be 'float32', 'bfloat16' or 'float16'"),
        ({"data.on_device": "maybe"}, "data.on_device = 'maybe': input should be 'auto', True or False"),
        ({"bn_stats.every_epoch": 1}, "bn_stats.every_epoch is not a key; did you mean bn_stats.every_epochs?"),
        ({"bn_stats.every_steps": 0}, "bn_stats.every_steps = 0: input should be greater than or equal to 1"),
        ({"bn_stats.channels": "some"}, "bn_stats.channels = 'some': input should be 'summary' or 'all'"),
        ({"engine": "warp"}, "engine = 'warp': input should be 'auto', 'native' or 'onednn'"),
        ({"engine": "onednnn"}, "input should be 'auto', 'native' or 'onednn'; did you mean onednn?"),
        ({"schedule.name": "cosin"}, "or 'piecewise'; did you mean cosine?"),
        ({"checkpoint.monitor": "eval_accuracy"}, "'acc' or 'loss'; did you mean eval_acc?"),
    ],
)
def test_what_cannot_be_is_named_with_key_and_value(overrides, message):
    with pytest.raises(RecipeError) as caught:
        Recipe.load("resnet20", overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "precision", "device", "expected"),
    [
        ("auto", "float32", "cpu", "NCHW"),
        ("auto", "bfloat16", "cpu", "NCHW"),
        ("auto", "float32", "gpu:0", "NCHW"),
        ("auto", "bfloat16", "gpu:0", "NHWC"),
        ("auto", "float16", "gpu", "NHWC"),
        ("NCHW", "float16", "gpu:0", "NCHW"),
        ("NHWC", "float32", "cpu", "NHWC"),
    ],
)
def test_the_automatic_data_format_is_channels_last_for_16_bits_on_a_gpu(asked, precision, device, expected):
    recipe = Recipe.load("quick", {"network.data_format": asked, "precision": precision})
    assert recipe.data_format(device) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnt20", "did you mean resnet20?"),
        ("../secret", "no recipe is called '../secret'"),
        ("absent.toml", "recipe absent.toml: cannot be read: No such file or directory"),
        (__file__, "does not end in .toml"),
    ],
)
def test_a_recipe_that_is_not_there(source, message):
    with pytest.raises(RecipeError, match="recipe") as caught:
        Recipe.load(source)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", [b"epochs = ", b"\xff\xfe", b"epochs = 3\nepochs = 4", b"[data\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path, text):
    file = tmp_path / "bad.toml"
    file.write_bytes(text)
    with pytest.raises(RecipeError, match=r"bad\.toml"):
        Recipe.load(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.lr=0.2", ("optimizer.lr", 0.2)),
        ("epochs = 3", ("epochs", 3)),
        ("optimizer.nesterov=true", ("optimizer.nesterov", True)),
        ("augment.flip=random", ("augment.flip", "random")),
        ('data.dir="a b"', ("data.dir", "a b")),
        ("data.dir=a=b", ("data.dir", "a=b")),
        ("schedule.milestones=[1, 2.5]", ("schedule.milestones", [1, 2.5])),
        ("data.limit=none", ("data.limit", None)),
        ("early_stopping=none", ("early_stopping", None)),
        ("no.such=none", ("no.such", None)),
        ("augment.flip=none", ("augment.flip", "none")),
        ("network.norm=none", ("network.norm", "none")),
    ],
)
def test_an_override_is_read_as_toml_or_a_bare_word(text, expected):
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["", "epochs", "=3", "epochs=", " = "])
def test_an_override_without_key_or_value_is_refused(text):
    with pytest.raises(RecipeError, match="expected KEY=VALUE"):
        parse_override(text)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(known_keys()) | st.text(max_size=8), _VALUES)
def test_any_override_gives_a_recipe_or_one_line(key, value):
    try:
        assert isinstance(Recipe.load("quick", {key: value}), Recipe)
    except RecipeError as error:
        assert len(str(error).splitlines()) == 1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=40))
def test_any_text_gives_a_recipe_or_one_line(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("recipe") / "any.toml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        assert isinstance(Recipe.load(file), Recipe)
    except RecipeError as error:
        assert "any" in str(error)


def test_known_keys_are_all_that_can_be_set():
    assert {"epochs", "data", "data.source", "optimizer.decay_norm", "checkpoint.monitor"} <= set(known_keys())
