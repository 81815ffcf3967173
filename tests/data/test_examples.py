"""Images to be looked at: which are chosen, as a PNG file, and in the terminal."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from rich.text import Text

from cifar_hapi.cli import run_command
from cifar_hapi.data.archives import read_cifar
from cifar_hapi.data.examples import Examples, choose_examples
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.picture_grid import drawn_grid, write_grid
from cifar_hapi.data.resize import resize
from cifar_hapi.data.synthetic import write_synthetic
from cifar_hapi.data.terminal_pictures import check_can_show, show
from cifar_hapi.errors import RecipeError
from cifar_hapi.recipe import Recipe


def chosen(folder, **options):
    return choose_examples("cifar10", data_dir=folder, **options).images


def made(count=3, side=4, names=("a", "b"), seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Examples("made", "", ImageSet(images, np.arange(count) % len(names), tuple(names)))


def test_each_class_is_shown_in_turn(small_cifar):
    labels = chosen(small_cifar, count=25).labels.tolist()
    assert labels == [*range(10), *range(10), *range(5)]


def test_the_seed_chooses_which_images(small_cifar):
    one, again, other = (chosen(small_cifar, seed=seed).images.tobytes() for seed in (0, 0, 1))
    assert one == again != other


def test_images_are_training_images_none_of_them_twice(small_cifar):
    train, _ = read_cifar(small_cifar, "cifar10")
    found = chosen(small_cifar, count=1000)
    assert len(found) == 600
    assert sorted(image.tobytes() for image in found.images) == sorted(image.tobytes() for image in train.images)


def test_augmented_images_are_those_varied_by_the_recipe(small_cifar):
    plain = chosen(small_cifar, count=40).images
    recipe = Recipe.load("quick", {"augment.crop_padding": 0, "augment.flip": "random", "augment.cutout": 0})
    varied = chosen(small_cifar, count=40, augmented=True, recipe=recipe).images
    same, mirrored = (varied == plain).all(axis=(1, 2, 3)), (varied == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | mirrored).all() and 5 < mirrored.sum() < 35
    cut = chosen(small_cifar, count=40, augmented=True, recipe=recipe.with_overrides({"augment.cutout": 8})).images
    assert not (cut == varied).all(axis=(1, 2, 3)).any()


def test_augmented_images_have_the_size_that_the_network_sees(small_cifar):
    recipe = Recipe.load("quick", {"data.image_size": 48, "augment.crop_padding": 0, "augment.flip": "none"})
    plain = chosen(small_cifar, count=3).images
    np.testing.assert_array_equal(chosen(small_cifar, count=3, augmented=True, recipe=recipe).images, resize(plain, 48))


@pytest.mark.parametrize(("side", "scale"), [(4, 24), (32, 3), (96, 1), (100, 1)])
def test_the_grid_shows_every_pixel_as_a_square(side, scale):
    examples = made(side=side)
    grid = np.asarray(drawn_grid(examples))
    shown = side * scale
    for place, pixels in enumerate(examples.images.images):
        top, left = 8 + place // 2 * (shown + 28), 8 + place % 2 * (shown + 8)
        part = grid[top : top + shown, left : left + shown]
        np.testing.assert_array_equal(part, pixels.repeat(scale, axis=0).repeat(scale, axis=1))
        below = grid[top + shown : top + shown + 20, left : left + shown]
        assert below.min() < 100 and below.max() == 255  # words


def test_names_never_reach_into_the_next_column():
    names = ("w" * 400, "漢字\x1b[31m\n")
    grid = np.asarray(drawn_grid(made(2, 32, names)))
    assert (grid[:, 104:112] == 255).all() and (grid[:, -8:] == 255).all()


@pytest.mark.parametrize("name", ["grid.jpg", "grid", "folder.png"])
def test_only_a_png_file_is_written(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(RecipeError, match=r"is not the name of a PNG file; call it something\.png"):
        write_grid(made(), tmp_path / name)


def screen(width=80, **options):
    defaults = {"force_terminal": True, "color_system": "truecolor", "legacy_windows": False}
    return Console(file=io.StringIO(), width=width, **{**defaults, **options})


@pytest.mark.parametrize("width", [1, 9, 20, 60, 200])
@pytest.mark.parametrize("side", [1, 8, 32, 224])
def test_no_line_in_the_terminal_is_wider_than_it(width, side):
    out = screen(width)
    examples = made(5, side, ("a name", "漢字漢字"))
    with out.capture() as captured:
        show(out, examples)
    lines = Text.from_ansi(captured.get()).split()
    assert max(line.cell_len for line in lines) <= max(width, 2)
    assert any(line.plain.startswith("a name"[: min(6, width)]) for line in lines)


def test_pixels_in_the_terminal_have_their_colours():
    out = screen(40)
    pixels = made(1, 16).images.images[0]
    with out.capture() as captured:
        show(out, Examples("made", "", ImageSet(pixels[None], np.zeros(1, np.int64), ("a",))))
    rows = captured.get().splitlines()[1:]
    assert len(rows) == 8
    for row, line in enumerate(rows):
        cells = [cell.split("m")[0] for cell in line.split("\x1b[") if "▀" in cell]
        expected = [
            "38;2;{};{};{};48;2;{};{};{}".format(*pixels[2 * row, column], *pixels[2 * row + 1, column])
            for column in range(16)
        ]
        assert cells == expected


@pytest.mark.parametrize(
    "options", [{"force_terminal": False}, {"color_system": None}, {"no_color": True, "color_system": None}]
)
def test_where_images_cannot_be_seen_the_way_out_is_told(options):
    with pytest.raises(RecipeError, match=r"use --out FILE\.png"):
        check_can_show(screen(**options))
    check_can_show(screen())


def test_the_command_writes_a_file_and_in_a_pipe_says_so(small_cifar, tmp_path, capsys):
    arguments = ["data", "show", "cifar10", "--data-dir", str(small_cifar), "--count", "12"]
    assert run_command([*arguments, "--augmented", "--out", str(tmp_path / "new" / "grid.png")]) == 0
    with Image.open(tmp_path / "new" / "grid.png") as grid:
        assert grid.size == (10 * 104 + 8, 2 * 124 + 8)
    assert "grid.png" in capsys.readouterr().out
    assert run_command(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "error: there is no terminal with colours to show images in; use --out FILE.png\n"


def test_generated_images_are_called_so(capsys, tmp_path, monkeypatch):
    small = partial(write_synthetic, train=20, test=10)
    monkeypatch.setattr("cifar_hapi.data.sources.write_synthetic", lambda folder: small(tmp_path / "synthetic"))
    assert run_command(["data", "show", "synthetic", "--count", "1", "--out", str(tmp_path / "one.png")]) == 0
    assert "generated images" in capsys.readouterr().err
