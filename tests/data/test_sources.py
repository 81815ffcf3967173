"""Where data is looked for, and that nothing is passed off as something else."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from small_training import CIFAR10_CLASSES, write_small_cifar

from cifar_hapi.data.sources import open_data
from cifar_hapi.data.synthetic import CLASS_NAMES, write_synthetic
from cifar_hapi.errors import DataError
from cifar_hapi.recipe import DataRecipe


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Downloads fail, as on a machine without network; the list of what was asked for."""
    asked = []

    def fetch(archive, folder, progress):
        asked.append(archive.file_name)
        raise DataError(f"{archive.file_name}: no mirror answers")

    monkeypatch.setattr("cifar_hapi.data.sources.fetch", fetch)
    return asked


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Three empty folders: one to be named, $CIFAR_HAPI_DATA, and the user's cache."""
    folders = {name: tmp_path / name for name in ("named", "environment", "cache")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setenv("CIFAR_HAPI_DATA", str(folders["environment"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders["cache"]))
    return {**folders, "cache": folders["cache"] / "cifar-hapi"}


@pytest.mark.parametrize("source", ["cifar10", "auto"])
@pytest.mark.parametrize(
    ("filled", "found"),
    [
        (("named", "environment", "cache"), "named"),
        (("environment", "cache"), "environment"),
        (("cache",), "cache"),
    ],
)
def test_cifar_is_looked_for_in_order(places, source, filled, found, no_network):
    for size, name in enumerate(filled):
        places[name].mkdir(exist_ok=True)
        write_small_cifar(places[name], train=50, test=10 + size)
    data = open_data(DataRecipe(source=source, dir=str(places["named"])))
    assert data.source.startswith(str(places[found])) and len(data.test) == 10
    assert (data.name, data.note, no_network) == ("cifar10", "", [])


def test_what_is_asked_for_by_name_is_that_or_an_error(places, no_network):
    with pytest.raises(DataError, match="no mirror answers"):
        open_data(DataRecipe(source="cifar10"))
    with pytest.raises(DataError, match=r"cifar-100-python\.tar\.gz: no mirror answers"):
        open_data(DataRecipe(source="cifar100"))
    assert no_network == ["cifar-10-python.tar.gz", "cifar-100-python.tar.gz"]


def test_auto_without_cifar_is_synthetic_and_says_why(places):
    data = open_data(DataRecipe(source="auto"))
    assert data.name == "synthetic" and data.train.class_names == CLASS_NAMES
    assert "can't be downloaded" in data.note and "no result here is a CIFAR result" in data.note
    assert (len(data.train) + len(data.val), len(data.test)) == (6_000, 2_000)


def test_damaged_data_is_an_error_and_nothing_stands_in_for_it(places):
    write_small_cifar(places["named"], train=50, test=10)
    (places["named"] / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"")
    with pytest.raises(DataError, match="data_batch_3"):
        open_data(DataRecipe(source="auto", dir=str(places["named"])))


def test_the_generated_set_does_not_pass_for_cifar(places):
    write_synthetic(places["named"], train=50, test=10)
    with pytest.raises(DataError, match="holds the generated set, not CIFAR"):
        open_data(DataRecipe(source="cifar10", dir=str(places["named"])))


def test_validation_images_are_held_out_by_class_and_seed(small_cifar):
    parts = [
        open_data(DataRecipe(source="cifar10", dir=str(small_cifar), val_fraction=0.2), seed) for seed in (0, 0, 1)
    ]
    first, again, other = (data.identity().parts for data in parts)
    assert first == again and first["val"] != other["val"] and first["test"] == other["test"]
    assert np.bincount(parts[0].val.labels).tolist() == [12] * 10 and len(parts[0].train) == 480


def test_limit_takes_the_first_training_images_and_all_of_the_test_set(small_cifar):
    whole = open_data(DataRecipe(source="cifar10", dir=str(small_cifar), val_fraction=0.0))
    part = open_data(DataRecipe(source="cifar10", dir=str(small_cifar), val_fraction=0.0, limit=70))
    np.testing.assert_array_equal(part.train.images, whole.train.images[:70])
    assert part.val is None and len(part.test) == 120 and part.train.class_names == tuple(CIFAR10_CLASSES)


def test_a_limit_on_an_image_folder_takes_all_classes(tmp_path):
    from PIL import Image

    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for number in range(20):
            Image.new("RGB", (32, 32), (number,) * 3).save(tmp_path / name / f"{number}.png")
    data = open_data(DataRecipe(source=str(tmp_path), limit=20, val_fraction=0.0))
    assert set(data.train.labels) == {0, 1, 2}


def test_a_folder_that_holds_an_archive_is_not_taken_for_images(small_cifar):
    with pytest.raises(DataError, match="holds the archive of cifar10; say --data cifar10 --data-dir"):
        open_data(DataRecipe(source=str(small_cifar)))


@pytest.mark.parametrize("source", ["auto", "cifar10"])
def test_a_data_dir_that_is_not_there_is_an_error(tmp_path, source):
    with pytest.raises(DataError, match="there is no such folder"):
        open_data(DataRecipe(source=source, dir=str(tmp_path / "typo")))


@pytest.mark.parametrize("source", ["auto", "cifar10"])
def test_an_environment_that_names_no_folder_is_an_error_unless_cifar_is_found(places, monkeypatch, no_network, source):
    monkeypatch.setenv("CIFAR_HAPI_DATA", "typo")
    with pytest.raises(DataError, match=r"^CIFAR_HAPI_DATA=typo: there is no such folder; correct it, or unset it$"):
        open_data(DataRecipe(source=source))
    write_small_cifar(places["named"], train=50, test=10)
    assert open_data(DataRecipe(source=source, dir=str(places["named"]))).name == "cifar10"
    assert no_network == []


def test_an_image_folder_needs_to_be_there(tmp_path):
    with pytest.raises(DataError, match="is neither cifar10"):
        open_data(DataRecipe(source=str(tmp_path / "nowhere")))


def test_images_of_a_single_red_are_an_error_unless_normalised_by_other_numbers(tmp_path):
    for number in range(6):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (7, number, number)).save(tmp_path / "ab"[number % 2] / f"{number}.png")
    with pytest.raises(DataError, match="a colour has the same value in all pixels"):
        open_data(DataRecipe(source=str(tmp_path)))
    assert len(open_data(DataRecipe(source=str(tmp_path), normalisation="imagenet", val_fraction=0.0)).train) == 4


def test_names_that_command_a_terminal_are_refused_or_written_out(tmp_path):
    for folder in ("cat", "dog\x1b[2J"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in range(9):
            Image.new("RGB", (8, 8), (number,) * 3).save(tmp_path / "images" / folder / f"{number}.png")
    with pytest.raises(DataError, match=r"dog\\x1b\[2J: control characters"):
        open_data(DataRecipe(source=str(tmp_path / "images")))
    (tmp_path / "images" / "dog\x1b[2J").rename(tmp_path / "images" / "dog")
    (tmp_path / "images" / "dog" / "\x1b[2J.png").touch()
    assert "dog/\\x1b[2J.png" in open_data(DataRecipe(source=str(tmp_path / "images"))).note
    (tmp_path / "images").rename(tmp_path / "a\rb")
    with pytest.raises(DataError, match="control characters in the name of the folder"):
        open_data(DataRecipe(source=str(tmp_path / "a\rb")))


def test_the_synthetic_set_is_made_once(places):
    first = open_data(DataRecipe(source="synthetic"))
    batch = places["cache"] / "synthetic-6000" / "cifar-10-batches-py" / "data_batch_1"
    before = batch.stat().st_mtime_ns
    assert open_data(DataRecipe(source="synthetic")).identity() == first.identity()
    assert batch.stat().st_mtime_ns == before
    shutil.rmtree(places["cache"])
