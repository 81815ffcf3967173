"""Pixels of an image folder on disk: the same bits as in memory, whole or made anew, and hardly any memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_training import small_fit

from cifar_hapi.data import decoding, image_store, sources
from cifar_hapi.data.augment import Augmentation
from cifar_hapi.data.decoding import decode
from cifar_hapi.data.image_store import ImageStore
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.pixels import MappedImages, blocks
from cifar_hapi.data.sources import open_data
from cifar_hapi.errors import DataError
from cifar_hapi.recipe import DataRecipe


def write_images(folder, counts=(12, 9), side=16):
    """Images of noise, in classes a and b; one of a cannot be read."""
    rng = np.random.default_rng(0)
    for name, count in zip("ab", counts, strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    (folder / "a" / "005.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "images")


def opened(folder, store=None, size=16, **options):
    return open_data(DataRecipe(source=str(folder), image_size=size, store=store and str(store), **options), seed=3)


@pytest.fixture
def decoded_files(monkeypatch):
    """The files that are decoded, in order."""
    seen, read = [], decoding.read_image

    def counting(path, image_size):
        seen.append(path)
        return read(path, image_size)

    monkeypatch.setattr(decoding, "read_image", counting)
    return seen


# --- the same as in memory ---


@pytest.mark.parametrize("options", [{}, {"limit": 7}, {"val_fraction": 0.0}, {"normalisation": "imagenet"}])
@pytest.mark.parametrize("split", [False, True], ids=["one folder", "train and test"])
def test_parts_statistics_and_batches_are_those_of_images_in_memory(tmp_path, split, options):
    folder = tmp_path / "images"
    for part in ("train", "test") if split else (".",):
        write_images(folder / part)
    plain, stored = opened(folder, **options), opened(folder, tmp_path / "store", **options)
    assert plain.identity() == stored.identity() and plain.note == stored.note != ""
    assert isinstance(stored.train.images, MappedImages) and isinstance(stored.test.images, MappedImages)
    augmentation = Augmentation(crop_padding=2, flip="random", cutout=4)
    for size in (None, 20):
        first, second = (
            BatchLoader(data.train, 4, image_size=size, augmentation=augmentation, shuffle=True, mean=data.mean)
            for data in (plain, stored)
        )
        for epoch in (0, 1):
            for step in range(len(first)):
                for one, other in zip(first.batch(epoch, step), second.batch(epoch, step), strict=True):
                    np.testing.assert_array_equal(one, other)


def test_a_training_ends_with_the_same_bits(tmp_path):
    folder = write_images(tmp_path / "images", (40, 40))
    weights = []
    for name in ("plain", "stored"):
        store = {"data.store": str(tmp_path / "store")} if name == "stored" else {}
        run = small_fit(None, tmp_path / name, data=str(folder), epochs=1, batch_size=20, **store)
        weights.append((run.path / "checkpoints" / "step-00000002" / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1] and any((tmp_path / "store").glob("*.npy"))


def test_mapped_images_are_chosen_as_those_of_an_array_are():
    array = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    rows = np.array([7, 0, 3, 3, 8])
    mapped, expected = MappedImages(array, rows), array[rows]
    assert (mapped.shape, mapped.nbytes, mapped.dtype) == (expected.shape, expected.nbytes, expected.dtype)
    for places in (2, -1, slice(1, 4), np.array([4, 0, 0])):
        np.testing.assert_array_equal(mapped[places], expected[places])
    np.testing.assert_array_equal(np.asarray(mapped.chosen(np.array([3, 1]))), expected[[3, 1]])
    np.testing.assert_array_equal(np.stack(list(mapped)), expected)
    with pytest.raises(IndexError):
        mapped[5]
    with pytest.raises(ValueError, match="axis 1"):
        mapped.take(np.array([0]), axis=1)


@pytest.mark.parametrize("limit", [1, 60, 130, 10**6])
def test_blocks_are_all_images_in_order(monkeypatch, limit):
    monkeypatch.setattr("cifar_hapi.data.pixels._BLOCK", limit)
    array = np.arange(7 * 60, dtype=np.uint8).reshape(7, 4, 5, 3)
    found = list(blocks(array[:, ::-1]))
    assert all(block.flags.c_contiguous and block.nbytes <= max(limit, 60) for block in found)
    np.testing.assert_array_equal(np.concatenate(found), array[:, ::-1])


# --- when there is a store ---


def test_only_many_pixels_are_stored_by_themselves(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "MOST_IN_MEMORY", 21 * 16 * 16 * 3)
    assert isinstance(opened(folder).train.images, np.ndarray) and not (tmp_path / "cache").exists()
    monkeypatch.setattr(sources, "MOST_IN_MEMORY", 21 * 16 * 16 * 3 - 1)
    assert isinstance(opened(folder).train.images, MappedImages)
    kinds = {path.suffix for path in (tmp_path / "cache" / "cifar-hapi" / "images").iterdir()}
    assert kinds - {".lock"} == {".json", ".npy"}


def test_images_are_decoded_once_for_each_size(folder, tmp_path, decoded_files):
    for size, count in ((16, 21), (16, 21), (8, 42), (16, 42), (8, 42)):
        opened(folder, tmp_path / "store", size)
        assert len(decoded_files) == count


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "b" / "000.png").write_bytes((folder / "b" / "001.png").read_bytes()),
        lambda folder: os.utime(folder / "a" / "003.png", (1, 1)),
        lambda folder: (folder / "a" / "003.png").rename(folder / "b" / "100.png"),
        lambda folder: (folder / "a" / "003.png").unlink(),
        lambda folder: (folder / "a" / "003.png").rename(folder / "a" / "3.png"),
    ],
    ids=["other bytes", "another time", "another class", "one less", "another name"],
)
def test_changed_images_are_decoded_anew_in_the_place_of_the_old(folder, tmp_path, change, recwarn):
    opened(folder, tmp_path / "store")
    change(folder)
    assert opened(folder, tmp_path / "store").identity() == opened(folder).identity()
    assert len(list((tmp_path / "store").glob("*.npy"))) == 1 and not recwarn.list


def test_another_pillow_may_decode_otherwise(folder, tmp_path, decoded_files, monkeypatch):
    opened(folder, tmp_path / "store")
    monkeypatch.setattr("PIL.__version__", "0.0")
    opened(folder, tmp_path / "store")
    assert len(decoded_files) == 42


def test_the_pixels_are_an_npy_file(folder, tmp_path):
    opened(folder, tmp_path / "store")
    (file,) = (tmp_path / "store").glob("*.npy")
    assert np.load(file, mmap_mode="r").shape == (21, 16, 16, 3)
    for shape in ((1, 8, 8, 3), (10**9, 1024, 1024, 3)):
        expected = np.lib.format.header_data_from_array_1_0(np.empty((0,), np.uint8)) | {"shape": shape}
        (tmp_path / "header").write_bytes(image_store._header(shape))
        with (tmp_path / "header").open("rb") as stream:
            assert np.lib.format.read_magic(stream) == (1, 0)
            found = np.lib.format.read_array_header_1_0(stream)
        assert found == (expected["shape"], expected["fortran_order"], np.dtype(np.uint8))
        assert (tmp_path / "header").stat().st_size % 64 == 0


# --- what is damaged or was left ---


def cut(index, pixels):
    os.truncate(pixels, pixels.stat().st_size - 1)


def lengthened(index, pixels):
    pixels.write_bytes(pixels.read_bytes() + b"x")


def of_another_shape(index, pixels):
    pixels.write_bytes(pixels.read_bytes().replace(b"(21, 16", b"(12, 16"))


def removed(index, pixels):
    pixels.unlink()


def linked(index, pixels):
    pixels.rename(pixels.with_name("elsewhere"))
    pixels.symlink_to("elsewhere")


def piped(index, pixels):
    pixels.unlink()
    os.mkfifo(pixels)


def index_of(**changes):
    return lambda index, pixels: index.write_text(json.dumps({**json.loads(index.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut, "is not whole"),
        (lengthened, "is not whole"),
        (of_another_shape, "or of other images"),
        (removed, "No such file"),
        (linked, "symbolic links"),
        (piped, "is no file"),
        (lambda index, pixels: index.write_text(""), "invalid json"),
        (lambda index, pixels: index.write_bytes(b"[" * 10**5), "invalid json"),
        (lambda index, pixels: os.truncate(index, 2**40), "is larger than"),
        (index_of(format=2), "format: input should be 1"),
        (index_of(digest=3), "digest: input should be a valid string"),
        (index_of(unreadable=[21]), "beyond the 21"),
        (index_of(unreadable=[10**30]), "beyond the 21"),
        (index_of(unreadable=[-1]), "unreadable"),
        (index_of(unreadable=[True]), "unreadable"),
        (index_of(**{"\x1b[2J": 1}), r"\\x1b\[2J"),
    ],
)
def test_a_damaged_store_is_told_in_one_line_and_made_anew(folder, tmp_path, damage, why):
    expected = opened(folder, tmp_path / "store").identity()
    ((index,), (pixels,)) = ((tmp_path / "store").glob(f"*.{kind}") for kind in ("json", "npy"))
    damage(index, pixels)
    with pytest.warns(UserWarning, match=f"damaged, so the images are decoded anew: .*{why}") as told:
        assert opened(folder, tmp_path / "store").identity() == expected
    assert len(told) == 1 and "\n" not in str(told[0].message)
    assert opened(folder, tmp_path / "store").identity() == expected  # without a warning, which would be an error


def test_what_a_killed_writer_leaves_counts_for_nothing_and_is_removed(folder, tmp_path, monkeypatch):
    script = (
        "import os, sys; from cifar_hapi.data import decoding; from cifar_hapi.data.sources import open_data\n"
        "from cifar_hapi.recipe import DataRecipe\nread, seen = decoding.read_image, []\n"
        "def dying(path, size):\n"
        "    seen.append(path)\n"
        "    if len(seen) == 9: os.kill(os.getpid(), 9)\n"
        "    return read(path, size)\n"
        "decoding.read_image = dying\n"
        "open_data(DataRecipe(source=sys.argv[1], image_size=16, store=sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "store")]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == -9
    left = {path.name for path in (tmp_path / "store").iterdir() if path.suffix != ".lock"}
    assert len(left) == 1 and left.pop().startswith(".")
    assert opened(folder, tmp_path / "store").identity() == opened(folder).identity()
    assert sorted(path.suffix for path in (tmp_path / "store").iterdir() if path.suffix != ".lock") == [".json", ".npy"]


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(file, paths, image_size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_store, "_write_pixels", full)
    with pytest.raises(DataError, match=r"store: images cannot be stored: No space left on device; make room, or"):
        opened(folder, tmp_path / "store")
    assert [path.suffix for path in (tmp_path / "store").iterdir() if path.suffix != ".lock"] == []


def test_a_store_that_cannot_be_is_an_error(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="images cannot be stored: "):
        opened(folder, tmp_path / "file")


def test_images_that_do_not_stand_still_are_an_error(folder, tmp_path, monkeypatch):
    write = image_store._write_pixels

    def changing(file, paths, image_size):
        os.utime(paths[0], (5, 5))
        return write(file, paths, image_size)

    monkeypatch.setattr(image_store, "_write_pixels", changing)
    with pytest.raises(DataError, match="images were changed as they were decoded"):
        opened(folder, tmp_path / "store")


def test_of_two_at_once_one_decodes_and_the_other_waits(folder, tmp_path, decoded_files):
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(opened, folder, tmp_path / "store") for _ in range(2)]
    assert both[0].result().identity() == both[1].result().identity() and len(decoded_files) == 21


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore:.*damaged, so the images are decoded anew")
@given(data=st.data())
def test_any_damage_but_to_pixels_themselves_gives_the_right_images(folder, tmp_path, data):
    paths = sorted(folder.glob("*/*"))
    store, expected = ImageStore(tmp_path / "store", folder, paths, 4), decode(paths, 4)
    store.opened()
    ((index,), (pixels,)) = ((tmp_path / "store").glob(f"*.{kind}") for kind in ("json", "npy"))
    if data.draw(st.booleans()):
        index.write_bytes(damaged(data.draw, index.read_bytes()))
    else:
        whole, header = pixels.read_bytes(), len(image_store._header((21, 4, 4, 3)))
        pixels.write_bytes(damaged(data.draw, whole[:header]) + whole[header:])
    found = store.opened()
    assert found.readable.tolist() == expected.readable.tolist()
    np.testing.assert_array_equal(np.asarray(found.images), expected.images)


# --- memory ---

MEMORY = """
import sys
import threading
from pathlib import Path
from cifar_hapi.data import sources
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.recipe import DataRecipe

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def look():
    while not ended.wait(0.002):
        seen.append(anonymous())

seen, ended = [anonymous()], threading.Event()
thread = threading.Thread(target=look)
thread.start()
data = sources.open_data(DataRecipe(source=sys.argv[1], image_size=256, store=sys.argv[2] or None))
data.identity()
for _ in BatchLoader(data.train, 8, mean=data.mean, shuffle=True):
    pass
ended.set()
thread.join()
print(max(seen) - seen[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_stored_set_takes_no_memory_of_its_own(tmp_path):
    for number in range(400):  # 79 MB of pixels
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (256, 256), (number % 256, number % 7, number % 13)).save(folder / f"{number}.bmp")
    taken = {}
    for kind, store in (("memory", ""), ("made", tmp_path / "store"), ("mapped", tmp_path / "store")):
        command = [sys.executable, "-c", MEMORY, str(tmp_path / "images"), str(store)]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        taken[kind] = int(done.stdout)
    # What is left are batches in float32, three at a time, and blocks of what is counted.
    assert min(taken["memory"] - taken["made"], taken["memory"] - taken["mapped"]) > 60e6, taken
