from __future__ import annotations

import hashlib
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest

from cifar_hapi.data import synthetic
from cifar_hapi.data.archives import LAYOUTS, find_cifar, read_cifar
from cifar_hapi.data.synthetic import CLASS_NAMES, draw, write_synthetic
from cifar_hapi.errors import DataError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_drawn_is_read_back(tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "new", train=57, test=20, seed=3)
    assert folder == tmp_path / "new" / "cifar-10-batches-py" == find_cifar(tmp_path / "new", "cifar10")
    train, test = read_cifar(folder, "cifar10")
    for image_set, (images, labels) in ((train, draw("train", 57, 3)), (test, draw("test", 20, 3))):
        np.testing.assert_array_equal(image_set.images, images.transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(image_set.labels, labels)
        assert image_set.class_names == CLASS_NAMES


@pytest.mark.filterwarnings("ignore")  # NumPy's about the archives' old form
def test_the_files_are_those_of_the_official_archive(tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path, train=20, test=4)
    assert {path.name for path in folder.iterdir()} == set(LAYOUTS["cifar10"].files)
    pickled = (folder / "data_batch_1").read_bytes()
    operations = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(pickled)]
    assert {argument for name, argument in operations if name == "GLOBAL"} == {
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
    }
    batch = pickle.loads(pickled, encoding="bytes")
    assert (batch[b"data"].shape, batch[b"data"].dtype, len(batch[b"labels"])) == ((4, 3072), np.uint8, 4)
    assert batch[b"batch_label"] == b"training batch 1 of 5"


def test_the_pixels_are_the_same_on_every_machine() -> None:
    images, labels = draw("train", 200)
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    # Another digest is another data set: the version in its batches.meta must rise with it.
    assert digest == "0eefafd8c93e5b8daa688f4658ab805ae687f7914ba6ee5818218dbcd7246839"


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_synthetic(tmp_path / name, train=40, test=10) for name in "ab")
    assert contents(first) == contents(second)


def test_seed_and_split_make_other_images() -> None:
    sets = [draw("train", 50, 0), draw("train", 50, 1), draw("test", 50, 0)]
    images = np.concatenate([images for images, _ in sets])
    assert len(np.unique(images.reshape(150, -1), axis=0)) == 150


def test_an_image_does_not_depend_on_how_many_are_drawn() -> None:
    few, many = draw("train", 30), draw("train", 250)
    np.testing.assert_array_equal(few[0], many[0][:30])
    np.testing.assert_array_equal(few[1], many[1][:30])


def test_classes_are_balanced_and_shuffled() -> None:
    labels = draw("train", 300)[1]
    assert np.bincount(labels).tolist() == [30] * 10
    assert len(np.unique(labels.reshape(30, 10), axis=0)) > 25


def test_brightness_and_colour_say_nothing_about_the_class() -> None:
    images, labels = draw("train", 4000)
    means = images.mean(axis=(2, 3))
    of_classes = np.array([means[labels == label].mean(axis=0) for label in range(10)])
    assert np.abs(of_classes - means.mean(axis=0)).max() < 0.25 * means.std()


def test_pixels_alone_do_not_give_the_class_away() -> None:
    """Ridge regression on the pixels, in its dual form, stays far under what a convolutional network reaches."""
    (images, labels), (test_images, test_labels) = draw("train", 2000), draw("test", 1000)
    rows, test_rows = (x.reshape(len(x), -1) / np.float32(127.5) - 1 for x in (images, test_images))
    targets = np.eye(10, dtype=np.float32)[labels]
    kernel = rows @ rows.T
    weights = np.linalg.solve(kernel + 100 * np.eye(len(kernel), dtype=np.float32), targets)
    assert (np.argmax(kernel @ weights, axis=1) == labels).mean() > 0.6  # it did learn something, by heart
    assert (np.argmax(test_rows @ rows.T @ weights, axis=1) == test_labels).mean() < 0.4


def test_a_set_that_is_there_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_synthetic(tmp_path, train=10, test=2)
    monkeypatch.setattr(synthetic, "draw", None)
    assert write_synthetic(tmp_path, train=10, test=2) == folder


@pytest.mark.parametrize("meta", [None, b"", b"another"])
def test_other_data_is_not_overwritten(tmp_path: Path, meta: bytes | None) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"mine")
    if meta is not None:
        (folder / "batches.meta").write_bytes(meta)
    before = contents(folder)
    with pytest.raises(DataError, match="cifar-10-batches-py holds other data"):
        write_synthetic(tmp_path, train=10, test=2)
    assert contents(folder) == before


@pytest.mark.parametrize("changed", [{"train": 11}, {"test": 3}, {"seed": 1}])
def test_another_synthetic_set_is_other_data(tmp_path: Path, changed: dict[str, int]) -> None:
    write_synthetic(tmp_path, train=10, test=2)
    with pytest.raises(DataError, match="holds other data"):
        write_synthetic(tmp_path, **{"train": 10, "test": 2, **changed})


@pytest.mark.parametrize(("train", "test"), [(4, 1), (5, 0)])
def test_a_set_with_an_empty_file_is_refused(tmp_path: Path, train: int, test: int) -> None:
    with pytest.raises(ValueError, match="at least 5 \\+ 1"):
        write_synthetic(tmp_path, train, test)


def test_an_interrupted_generation_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        half = next(tmp_path.glob(".synthetic-*/cifar-10-batches-py"))
        assert (half / "test_batch").is_file()
        assert find_cifar(tmp_path, "cifar10") is None  # what a process that is killed here leaves
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path, train=10, test=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("same", [True, False])
def test_a_process_that_was_faster_is_given_way(tmp_path: Path, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_synthetic(tmp_path / "other", train=10, test=2, seed=0 if same else 1)
    rename = Path.rename

    def late(source: Path, target: Path) -> None:
        rename(other, target)
        rename(source, target)

    monkeypatch.setattr(Path, "rename", late)
    if same:
        assert len(read_cifar(write_synthetic(tmp_path, train=10, test=2), "cifar10")[0]) == 10
    else:
        with pytest.raises(DataError, match="holds other data"):
            write_synthetic(tmp_path, train=10, test=2)
    assert {path.name for path in tmp_path.iterdir()} == {"other", "cifar-10-batches-py"}
