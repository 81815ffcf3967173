"""predict(): arrays, files and folders in, classes and probabilities out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from small_training import small_fit

from cifar_hapi import DataError, RecipeError, predict
from cifar_hapi.data.archives import read_cifar


@pytest.fixture(scope="module")
def run(small_cifar, tmp_path_factory):
    return small_fit(small_cifar, tmp_path_factory.mktemp("runs") / "run", epochs=1)


@pytest.fixture(scope="module")
def images(small_cifar):
    return read_cifar(small_cifar, "cifar10")[1].images[:7]


def test_probabilities_belong_to_the_classes(run, images):
    found = predict(run, images)
    assert len(found) == 7 and found.probabilities.shape == (7, 10)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert (found.labels == found.probabilities.argmax(axis=1)).all()
    assert found.names == tuple(found.class_names[label] for label in found.labels)
    assert found.sources[0] == "image 0"


def test_one_image_is_a_batch_of_one(run, images):
    one = predict(run, images[2])
    assert len(one) == 1
    np.testing.assert_allclose(one.probabilities[0], predict(run, images).probabilities[2], rtol=1e-4)


def test_the_batch_size_does_not_matter(run, images):
    np.testing.assert_allclose(
        predict(run, images, batch_size=2).probabilities, predict(run, images).probabilities, rtol=1e-4
    )


def test_files_and_folders_give_what_their_pixels_give(run, images, tmp_path):
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    files = [tmp_path / f"{number}.png" for number in range(7)]
    expected = predict(run, images).probabilities
    for given in (tmp_path, str(tmp_path), files, [str(file) for file in files], [files[0], *files[1:]]):
        found = predict(run, given)
        np.testing.assert_array_equal(found.probabilities, expected)
        assert found.sources == tuple(map(str, files))
    assert len(predict(run, files[3])) == 1


def test_records_are_plain_data(run, images):
    record = predict(run, images).records()[0]
    assert list(record) == ["image", "label", "class", "probabilities"]
    assert record["probabilities"][record["class"]] == max(record["probabilities"].values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, 32, 32, 3), "float32"), r"float32 \[2, 32, 32, 3\]: expected uint8"),
        (np.zeros((2, 3, 32, 32), "uint8"), "expected uint8"),
        (np.zeros((0, 32, 32, 3), "uint8"), "expected uint8"),
        (np.zeros((32, 32), "uint8"), "expected uint8"),
        ("no/such.png", r"no/such\.png: there is no such file or folder"),
        (["no/such.png", "nor/this.png"], r"no/such\.png: there is no such file or folder"),
        ([], "none in an empty list"),
    ],
)
def test_what_is_no_image_is_named(run, given, message):
    with pytest.raises(DataError, match=message):
        predict(run, given)


def test_a_folder_without_images_and_a_broken_file_are_named(run, tmp_path):
    with pytest.raises(DataError, match="none in"):
        predict(run, tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    Image.new("RGB", (32, 32)).save(tmp_path / "whole.png")
    with pytest.raises(DataError, match=r"broken\.png: not an image .*; repair or remove the file"):
        predict(run, tmp_path)


def test_another_engine_than_the_recipes_predicts_the_same(run, images):
    native = predict(run, images, engine="native").probabilities
    np.testing.assert_allclose(native, predict(run, images).probabilities, atol=0.05)  # bfloat16 where that is native
    with pytest.raises(RecipeError, match=r"engine = 'natve': .*did you mean native"):
        predict(run, images, engine="natve")
