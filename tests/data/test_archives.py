from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hapi.data import archives
from cifar_hapi.data.archive_format import dumps
from cifar_hapi.data.archives import LAYOUTS, CifarName, find_cifar, read_cifar
from cifar_hapi.errors import DataError

Content = dict[str, Any]

SIZES = {"data_batch_1": 3, "data_batch_2": 1, "data_batch_3": 4, "data_batch_4": 2, "data_batch_5": 5, "test_batch": 2}


def batch(count: int, seed: int, labels_key: str = "labels", num_classes: int = 10) -> Content:
    rng = np.random.default_rng(seed)
    return {
        "data": rng.integers(0, 256, (count, 3072), np.uint8),
        labels_key: rng.integers(0, num_classes, count).tolist(),
        "filenames": [f"{index}.png" for index in range(count)],
    }


def cifar10() -> dict[str, Content]:
    batches = {file: batch(count, seed) for seed, (file, count) in enumerate(SIZES.items())}
    return {**batches, "batches.meta": {"label_names": [f"class {number}" for number in range(10)]}}


def cifar100() -> dict[str, Content]:
    meta = {"fine_label_names": [f"fine {n}" for n in range(100)], "coarse_label_names": ["coarse"] * 20}
    return {
        "train": {**batch(7, 1, "fine_labels", 100), "coarse_labels": [0] * 7},
        "test": {**batch(3, 2, "fine_labels", 100), "coarse_labels": [0] * 3},
        "meta": meta,
    }


SETS: dict[CifarName, dict[str, Content]] = {"cifar10": cifar10(), "cifar100": cifar100()}


def write_folder(folder: Path, name: CifarName, contents: dict[str, Content] | None = None) -> Path:
    target = folder / LAYOUTS[name].folder
    target.mkdir(parents=True)
    for file, content in (contents or SETS[name]).items():
        (target / file).write_bytes(dumps(content))
    return target


def write_archive(folder: Path, name: CifarName, edit: Callable[[tarfile.TarInfo], object] = lambda _: None) -> Path:
    """The archive, with each member's header edited before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LAYOUTS[name].archive
    with tarfile.open(path, "w:gz") as tar:
        directory = tarfile.TarInfo(LAYOUTS[name].folder)
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        for file, content in reversed(SETS[name].items()):  # the official archive isn't in order either
            pickled = dumps(content)
            member = tarfile.TarInfo(f"{LAYOUTS[name].folder}/{file}")
            member.size = len(pickled)
            edit(member)
            tar.addfile(member, io.BytesIO(pickled))
    return path


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("write", [write_folder, write_archive])
@pytest.mark.parametrize("directly", [True, False])
def test_folder_and_archive_are_read(tmp_path: Path, name: CifarName, write: Any, directly: bool) -> None:
    path = write(tmp_path, name)
    assert find_cifar(tmp_path, name) == find_cifar(path, name) == path
    layout, contents = LAYOUTS[name], SETS[name]
    sets = read_cifar(path if directly else tmp_path, name)
    for image_set, files in zip(sets, (layout.train, [layout.test]), strict=True):
        rows = np.concatenate([contents[file]["data"] for file in files])
        labels = np.concatenate([contents[file][layout.labels_key.decode()] for file in files])
        np.testing.assert_array_equal(image_set.images, rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(image_set.labels, labels)
        assert image_set.images.dtype == np.uint8 and image_set.labels.dtype == np.int64
        assert image_set.images.flags.c_contiguous
        assert image_set.class_names == tuple(contents[layout.meta][layout.names_key.decode()])


def test_an_image_has_rows_columns_and_colours_where_they_belong(tmp_path: Path) -> None:
    contents = cifar10()
    row = np.zeros(3072, np.uint8)
    row[[2 * 32 + 5, 1024 + 3 * 32 + 6, 2048 + 4 * 32 + 7]] = 1, 2, 3  # red, green and blue planes, row by row
    contents["test_batch"]["data"][0] = row
    image = read_cifar(write_folder(tmp_path, "cifar10", contents), "cifar10")[1].images[0]
    assert (image[2, 5].tolist(), image[3, 6].tolist(), image[4, 7].tolist()) == ([1, 0, 0], [0, 2, 0], [0, 0, 3])


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert find_cifar(tmp_path, "cifar10") is None
    assert find_cifar(tmp_path / "absent", "cifar10") is None
    write_folder(tmp_path, "cifar10")
    assert find_cifar(tmp_path, "cifar100") is None
    with pytest.raises(DataError, match=r"no CIFAR-100 here: expected cifar-100-python\.tar\.gz"):
        read_cifar(tmp_path, "cifar100")


def test_folders_of_images_named_train_and_test_are_no_cifar100(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    assert find_cifar(tmp_path, "cifar100") is None


def without(key: str) -> Callable[[Content], Content]:
    return lambda content: {k: v for k, v in content.items() if k != key}


def with_value(key: str, value: object) -> Callable[[Content], Content]:
    return lambda content: {**content, key: value}


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("data_batch_2", without("data"), "data is missing"),
        ("data_batch_2", without("labels"), "labels is missing"),
        ("batches.meta", without("label_names"), "label_names is missing"),
        ("data_batch_2", with_value("data", [1, 2]), "data is no ndarray"),
        ("data_batch_2", with_value("labels", "dog"), "labels is no list"),
        ("data_batch_2", with_value("data", np.zeros((1, 3071), np.uint8)), r"shape \(1, 3071\)"),
        ("data_batch_2", with_value("data", np.zeros((0, 3072), np.uint8)), r"shape \(0, 3072\)"),
        ("data_batch_2", with_value("labels", []), "0 labels for 1 images"),
        ("data_batch_2", with_value("labels", [1, 2]), "2 labels for 1 images"),
        ("data_batch_2", with_value("labels", [10]), "no number from 0 to 9"),
        ("data_batch_2", with_value("labels", [-1]), "no number from 0 to 9"),
        ("test_batch", with_value("labels", ["1", "2"]), "no number from 0 to 9"),
        ("batches.meta", with_value("label_names", ["dog"] * 10), "1 class names, expected 10 different"),
        ("batches.meta", with_value("label_names", list("abcdefghi")), "9 class names, expected 10"),
        ("batches.meta", with_value("label_names", list(range(10))), "no printable ASCII"),
        ("batches.meta", with_value("label_names", [*"abcdefghi", "\x1b[2J"]), "no printable ASCII"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_the_file(
    tmp_path: Path, file: str, change: Callable[[Content], Content], problem: str
) -> None:
    contents = cifar10()
    contents[file] = change(contents[file])
    with pytest.raises(DataError, match=problem) as refused:
        read_cifar(write_folder(tmp_path, "cifar10", contents), "cifar10")
    assert file in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_label_of_cifar100_may_be_99_and_no_more(tmp_path: Path) -> None:
    contents = cifar100()
    contents["test"]["fine_labels"] = [99, 0, 99]
    folder = write_folder(tmp_path, "cifar100", contents)
    assert read_cifar(folder, "cifar100")[1].labels.tolist() == [99, 0, 99]
    contents["test"]["fine_labels"] = [100, 0, 99]
    (folder / "test").write_bytes(dumps(contents["test"]))
    with pytest.raises(DataError, match="no number from 0 to 99"):
        read_cifar(folder, "cifar100")


@pytest.mark.parametrize("file", [*SIZES, "batches.meta"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    (write_folder(tmp_path, "cifar10") / file).unlink()
    with pytest.raises(DataError, match=f"{file} is missing from CIFAR-10"):
        read_cifar(tmp_path, "cifar10")


@pytest.mark.parametrize("kept", [0, 1, 500, -1])
def test_a_truncated_batch_is_refused(tmp_path: Path, kept: int) -> None:
    path = write_folder(tmp_path, "cifar10") / "data_batch_3"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"data_batch_3: is truncated"):
        read_cifar(tmp_path, "cifar10")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    path = write_folder(tmp_path, "cifar10") / "data_batch_3"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        read_cifar(tmp_path, "cifar10")


@pytest.mark.parametrize("write", [write_folder, write_archive])
def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "cifar10")
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 10_000)
    with pytest.raises(DataError, match=r"data_batch_\d'? has \d+ bytes, expected at most 10000"):
        read_cifar(path, "cifar10")


def test_an_archive_that_unpacks_to_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(tmp_path, "cifar10")
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 20_000)
    with pytest.raises(DataError, match=r"tar\.gz has \d+ bytes, expected at most 20000"):
        read_cifar(path, "cifar10")


@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_a_truncated_archive_is_refused(tmp_path: Path, part: float) -> None:
    path = write_archive(tmp_path, "cifar10")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(DataError, match=r"can't be read as a \.tar\.gz archive") as refused:
        read_cifar(path, "cifar10")
    assert str(refused.value).startswith(str(path))


def test_a_member_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path, "cifar10")
    unpacked = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(unpacked[:5_000]))
    with pytest.raises(DataError, match="test_batch' is truncated"):
        read_cifar(path, "cifar10")


def test_a_damaged_checksum_of_the_archive_is_noticed(tmp_path: Path) -> None:
    path = write_archive(tmp_path, "cifar10")
    damaged = bytearray(path.read_bytes())
    damaged[-8] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="CRC check failed"):
        read_cifar(path, "cifar10")


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (b"", "data_batch_1 is missing"),
        (b"<html>404</html>", "can't be read as a .tar.gz"),
        (gzip.compress(b"no tar"), "can't be read as a .tar.gz"),
        (gzip.compress(b"no tar" * 1000), "can't be read as a .tar.gz"),
        (gzip.compress(bytes(10_240)), "data_batch_1 is missing"),
    ],
    ids=["empty", "a page", "no tar", "a longer one", "a tar of zeros"],  # gzip writes the time, ids must not change
)
def test_what_is_no_archive_is_refused(tmp_path: Path, contents: bytes, problem: str) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(contents)
    with pytest.raises(DataError, match=problem) as refused:
        read_cifar(tmp_path, "cifar10")
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    def edit(member: tarfile.TarInfo) -> None:
        if member.name.endswith("data_batch_4"):
            member.type, member.linkname, member.size = kind, "/etc/passwd", 0

    with pytest.raises(DataError, match="data_batch_4' is no regular file"):
        read_cifar(write_archive(tmp_path, "cifar10", edit), "cifar10")


@pytest.mark.parametrize("place", ["../cifar-10-batches-py/", "/cifar-10-batches-py/", "", "x/cifar-10-batches-py/"])
def test_a_member_elsewhere_does_not_stand_in(tmp_path: Path, place: str) -> None:
    def edit(member: tarfile.TarInfo) -> None:
        if member.name.endswith("data_batch_4"):
            member.name = f"{place}data_batch_4"

    path = write_archive(tmp_path / "in", "cifar10", edit)
    with pytest.raises(DataError, match="data_batch_4 is missing"):
        read_cifar(path, "cifar10")
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["cifar-10-python.tar.gz", "in"]


def test_a_member_of_negative_size_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path, "cifar10")
    header = bytearray(tarfile.TarInfo("unused").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # minus one block, in base 256: skipping it would go back for ever
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    path.write_bytes(gzip.compress(bytes(header)))
    with pytest.raises(DataError, match="'unused' has -512 bytes"):
        read_cifar(path, "cifar10")


def test_extended_headers_are_passed_over(tmp_path: Path) -> None:
    def edit(member: tarfile.TarInfo) -> None:
        member.pax_headers = {"mtime": "1.5", "comment": "x" * 2000}

    read_cifar(write_archive(tmp_path, "cifar10", edit), "cifar10")


@pytest.fixture(scope="module")
def small_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archive"), "cifar10")


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.data())
@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_archive_is_read_or_refused(small_archive: Path, compressed: bool, data: st.DataObject) -> None:
    """Damage to the compressed bytes, and to the headers under an intact compression."""
    whole = small_archive.read_bytes()
    damaged = bytearray(whole if compressed else gzip.decompress(whole))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(damaged)) | st.integers(0, 512))
        end = data.draw(st.integers(start, min(start + 8, len(damaged))))
        damaged[start:end] = data.draw(st.binary(max_size=8))
    path = small_archive.with_name("damaged.tar.gz")
    path.write_bytes(damaged if compressed else gzip.compress(damaged, 1))
    try:
        train, test = read_cifar(path, "cifar10")
    except DataError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:
        assert len(train.images) == len(train) == 15 and len(test.images) == len(test) == 2


@pytest.mark.real_data
def test_the_real_cifar10_is_what_its_authors_describe(cifar10_folder: Path) -> None:
    train, test = read_cifar(cifar10_folder, "cifar10")
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.images.shape == (50_000, 32, 32, 3) and test.images.shape == (10_000, 32, 32, 3)
    assert train.class_names[:4] == ("airplane", "automobile", "bird", "cat")
    means = [train.images[..., channel].mean() / 255 for channel in range(3)]
    np.testing.assert_allclose(means, [0.49140, 0.48216, 0.44653], atol=1e-4)


def test_a_folder_beside_its_archive_is_preferred(tmp_path: Path) -> None:
    path = write_archive(tmp_path, "cifar10")
    folder = write_folder(tmp_path, "cifar10")
    assert find_cifar(tmp_path, "cifar10") == folder
    shutil.rmtree(folder)
    assert find_cifar(tmp_path, "cifar10") == path
