from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from cifar_hapi.data.folder import list_images, read_image_folder
from cifar_hapi.data.picture_file import read_image
from cifar_hapi.errors import DataError, RecipeError

RED, WHITE = (255, 0, 0), (255, 255, 255)


def noise(seed: int = 0, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_images(folder: Path, count: int, first: int = 0) -> None:
    """Images whose every pixel says which one it is: (number, number, number)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (32, 32), (number,) * 3).save(folder / f"{number:03}.png")


def numbers(images: np.ndarray) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    write_images(tmp_path / "dog", 10, first=100)
    write_images(tmp_path / "cat", 5)
    return tmp_path


# --- data sets ---


def test_each_class_is_split_in_the_asked_proportion(two_classes: Path) -> None:
    data = read_image_folder(two_classes, test_fraction=0.4)
    assert data.train.class_names == data.test.class_names == ("cat", "dog")
    assert np.bincount(data.train.labels).tolist() == [3, 6]
    assert np.bincount(data.test.labels).tolist() == [2, 4]
    assert data.unreadable == ()


def test_every_image_is_in_one_split_with_its_label(two_classes: Path) -> None:
    data = read_image_folder(two_classes)
    seen = numbers(data.train.images) + numbers(data.test.images)
    assert sorted(seen) == [*range(5), *range(100, 110)]
    for split in (data.train, data.test):
        assert split.labels.tolist() == [int(number >= 100) for number in numbers(split.images)]


def test_the_arrays_are_as_an_image_set_wants_them(two_classes: Path) -> None:
    train = read_image_folder(two_classes, image_size=16).train
    assert train.images.shape == (12, 16, 16, 3)
    assert train.images.dtype == np.uint8 and train.images.flags.c_contiguous
    assert train.labels.dtype == np.int64


def test_the_split_follows_the_seed(two_classes: Path) -> None:
    def test_numbers(seed: int) -> list[int]:
        return numbers(read_image_folder(two_classes, test_fraction=0.5, seed=seed).test.images)

    assert test_numbers(3) == test_numbers(3)
    assert len({tuple(test_numbers(seed)) for seed in range(5)}) > 1


def test_the_order_of_the_file_system_does_not_matter(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_image_folder(two_classes)
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(iterdir(self), reverse=True)))
    assert read_image_folder(two_classes).test.sha256() == expected.test.sha256()
    assert read_image_folder(two_classes).train.sha256() == expected.train.sha256()


@pytest.mark.parametrize(("fraction", "in_test"), [(0.01, 1), (0.99, 1), (0.5, 1)])
def test_a_class_of_two_images_has_one_in_each_split(tmp_path: Path, fraction: float, in_test: int) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / name, 2)
    data = read_image_folder(tmp_path, test_fraction=fraction)
    assert (len(data.train), len(data.test)) == (2, 2 * in_test)


def test_a_class_of_one_image_is_for_training(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 1)
    write_images(tmp_path / "dog", 2)
    data = read_image_folder(tmp_path)
    assert data.train.labels.tolist() == [0, 1]
    assert data.test.labels.tolist() == [1]


def test_classes_of_one_image_alone_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / name, 1)
    with pytest.raises(DataError, match="none is left for testing"):
        read_image_folder(tmp_path)


def test_train_and_test_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "cat", 3)
    write_images(tmp_path / "train" / "dog", 2, first=10)
    write_images(tmp_path / "test" / "dog", 4, first=20)
    data = read_image_folder(tmp_path)
    assert numbers(data.train.images) == [0, 1, 2, 10, 11]
    assert numbers(data.test.images) == [20, 21, 22, 23]
    assert data.test.labels.tolist() == [1, 1, 1, 1]
    assert data.test.class_names == ("cat", "dog")


def test_unreadable_images_of_both_splits_are_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / split / "cat", 1)
        (tmp_path / split / "cat" / "a.png").write_bytes(b"garbage")
    write_images(tmp_path / "train" / "dog", 1)
    unreadable = read_image_folder(tmp_path).unreadable
    assert unreadable == (tmp_path / "train" / "cat" / "a.png", tmp_path / "test" / "cat" / "a.png")


def test_a_class_of_the_test_folder_alone_is_refused(tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "test/horse"):
        write_images(tmp_path / name, 1)
    with pytest.raises(DataError, match="no training images for horse; the classes are cat, dog"):
        read_image_folder(tmp_path)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_an_impossible_fraction_is_refused(two_classes: Path, fraction: float) -> None:
    with pytest.raises(RecipeError, match="test_fraction"):
        read_image_folder(two_classes, test_fraction=fraction)


# --- what is no image, and what is no longer one ---


def test_unreadable_images_are_left_out_and_named(two_classes: Path) -> None:
    whole = (two_classes / "cat" / "000.png").read_bytes()
    (two_classes / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (two_classes / "cat" / "garbage.jpg").write_bytes(b"no image at all")
    (two_classes / "cat" / "link.png").symlink_to("nowhere.png")
    data = read_image_folder(two_classes)
    assert data.unreadable == tuple(two_classes / name for name in ("cat/garbage.jpg", "cat/link.png", "dog/cut.png"))
    assert len(data.train) + len(data.test) == 15


def test_other_files_and_hidden_ones_are_skipped(two_classes: Path) -> None:
    for name in ("notes.txt", "cat/labels.csv", "cat/.hidden.png", "cat/._000.png", "picture.png"):
        (two_classes / name).write_text("not an image")
    write_images(two_classes / ".cache", 3)
    write_images(two_classes / "cat" / "kittens", 3)
    write_images(two_classes / "cat" / "folder.png", 1)
    data = read_image_folder(two_classes)
    assert data.train.class_names == ("cat", "dog")
    assert len(data.train) + len(data.test) == 15
    assert data.unreadable == ()


def no_folder(folder: Path) -> None:
    folder.rmdir()


def nothing(folder: Path) -> None:
    pass


def loose_images(folder: Path) -> None:
    write_images(folder, 2)


def an_empty_class(folder: Path) -> None:
    write_images(folder / "dog", 2)
    (folder / "cat").mkdir()


def a_class_of_garbage(folder: Path) -> None:
    write_images(folder / "dog", 2)
    (folder / "cat").mkdir()
    (folder / "cat" / "a.png").write_bytes(b"garbage")


def train_without_test(folder: Path) -> None:
    write_images(folder / "train" / "cat", 2)


def one_class(data: Path) -> None:
    write_images(data / "cat", 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_folder, r"data: cannot be listed: No such file"),
        (nothing, r"data: holds no class folders"),
        (loose_images, r"data: holds no class folders"),
        (
            one_class,
            r"data: holds one class folder, 'cat', and there is nothing to tell it from; expected .* two classes",
        ),
        (an_empty_class, r"cat: holds no image files"),
        (a_class_of_garbage, r"cat: none of its 1 images can be read; the first: .*a\.png: not an image"),
        (train_without_test, r"train: holds no image files"),
    ],
)
def test_a_folder_without_a_data_set_is_refused(tmp_path: Path, make: object, message: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as error:
        read_image_folder(folder)
    assert "\n" not in str(error.value)


def test_links_to_the_outside_are_followed(two_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    write_images(outside / "horses", 4, first=200)
    (two_classes / "horse").symlink_to(outside / "horses")
    (two_classes / "cat" / "z.png").symlink_to(outside / "horses" / "200.png")
    data = read_image_folder(two_classes)
    assert data.train.class_names == ("cat", "dog", "horse")
    assert len(data.train) + len(data.test) == 15 + 4 + 1


def test_a_link_to_itself_is_unreadable_and_a_folder_in_a_circle_ends(two_classes: Path) -> None:
    (two_classes / "cat" / "loop.png").symlink_to("loop.png")
    (two_classes / "cat" / "up").symlink_to(two_classes)
    assert read_image_folder(two_classes).unreadable == (two_classes / "cat" / "loop.png",)
    (two_classes / "circle").symlink_to(two_classes)
    with pytest.raises(DataError, match="circle: holds no image files"):
        read_image_folder(two_classes)


def test_images_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.webp", "d.txt", ".e.png"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpeg", "b.PNG", "c.webp"]


def test_a_file_cannot_be_listed(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png: cannot be listed: Not a directory"):
        list_images(tmp_path / "a.png")


# --- single images ---


def test_an_image_of_the_asked_size_comes_out_untouched(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", 32), noise())


@pytest.mark.parametrize("format", ["BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"])
def test_every_format_is_read(tmp_path: Path, format: str) -> None:
    Image.new("RGB", (40, 30), RED).save(tmp_path / "image", format)
    pixels = read_image(tmp_path / "image", 32)
    assert np.abs(pixels.astype(int) - RED).max() <= 2


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, WHITE),
        ("L", 77, (77, 77, 77)),
        ("LA", (0, 0), WHITE),
        ("LA", (77, 255), (77, 77, 77)),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("CMYK", (0, 255, 255, 0), RED),
        ("I;16", 77 * 256 + 200, (77, 77, 77)),
        ("I", 77 * 256 + 200, (77, 77, 77)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, colour: int | tuple[int, ...], expected: tuple[int, ...]
) -> None:
    Image.new(mode, (40, 30), colour).save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif", 8), np.broadcast_to(np.uint8(expected), (8, 8, 3)))


def test_16_bit_grey_png_keeps_its_upper_bits(tmp_path: Path) -> None:
    values = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", 32)[..., 1], values >> 8)


def test_a_palette_and_its_transparent_colour_are_resolved(tmp_path: Path) -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([*RED, 0, 0, 255])
    image.paste(0, (0, 0, 16, 32))
    image.save(tmp_path / "a.png", transparency=0)
    pixels = read_image(tmp_path / "a.png", 32)
    assert np.array_equal(pixels[5, 5], WHITE)
    assert np.array_equal(pixels[5, 25], (0, 0, 255))


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_the_exif_orientation_is_applied(tmp_path: Path, extension: str) -> None:
    image = Image.new("RGB", (64, 64), "white")
    image.paste(RED, (0, 0, 64, 32))  # red above; orientation 6 says: turn clockwise, so red to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / f"a.{extension}", exif=exif)
    pixels = read_image(tmp_path / f"a.{extension}", 32).astype(int)
    assert np.abs(pixels[:, 20:] - RED).max() <= 8
    assert np.abs(pixels[:, :12] - WHITE).max() <= 8


@pytest.mark.parametrize("size", [(96, 32), (32, 96), (300, 100)])
def test_the_centre_is_cut_out(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    side = min(size)
    image = Image.new("RGB", size, RED)
    image.paste(WHITE, ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))
    image.save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", 32)
    assert np.array_equal(pixels[1:-1, 1:-1], np.full((30, 30, 3), 255))
    assert pixels.min() > 200  # antialiasing lets what lies beside it tint the rim


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_scaling_down_averages(tmp_path: Path, extension: str) -> None:
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[::2] = 200
    Image.fromarray(stripes).save(tmp_path / f"a.{extension}", quality=95)
    assert np.abs(read_image(tmp_path / f"a.{extension}", 32).astype(int) - 100).max() <= 2


def test_a_large_jpeg_keeps_its_detail(tmp_path: Path) -> None:
    blocks = noise().repeat(8, axis=0).repeat(8, axis=1)
    Image.fromarray(blocks).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    Image.fromarray(blocks).save(tmp_path / "a.png")
    difference = read_image(tmp_path / "a.jpg", 32).astype(int) - read_image(tmp_path / "a.png", 32)
    assert np.abs(difference).mean() < 5


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (31, 33)])
def test_any_size_is_read(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, RED).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", 32), np.broadcast_to(np.uint8(RED), (32, 32, 3)))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it is as large as that."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))


@pytest.mark.parametrize("side", [10_000, 50_000])  # where Pillow warns, and where it refuses
def test_a_decompression_bomb_is_refused(tmp_path: Path, side: int, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "bomb.png").write_bytes(png_claiming(side, side))
    with pytest.raises(DataError, match=r"bomb\.png: cannot be read as an image: .*exceeds limit"):
        read_image(tmp_path / "bomb.png", 32)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an image of a known format"),
        (b"garbage", "not an image of a known format"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "not an image of a known format",
        ),
        (png_claiming(9, 9)[:-4], "cannot be read as an image"),
        (png_claiming(9, 9) + chunk(b"\xfb\xdc\xb6_", b""), "cannot be read as an image: broken PNG file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.png: {message}") as error:
        read_image(tmp_path / "a.png", 32)
    assert "\n" not in str(error.value)


def test_damaged_metadata_alone_go_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    damaged = exif.tobytes()[:-12]
    Image.fromarray(noise()).save(tmp_path / "a.png", exif=damaged)
    assert np.array_equal(read_image(tmp_path / "a.png", 32), noise())
    assert not recwarn.list


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image: No such file"):
        read_image(tmp_path / "a.png", 32)
    with pytest.raises(DataError, match="cannot be read as an image: Is a directory"):
        read_image(tmp_path, 32)


@pytest.mark.parametrize(
    ("mode", "colour", "reason"),
    [
        ("F", 0.5, "floating-point pixels"),
        ("I", 70_000, "more than 16 bits"),
        ("I", -1, "more than 16 bits"),
    ],
)
def test_pixels_that_have_no_meaning_in_rgb_are_refused(tmp_path: Path, mode: str, colour: float, reason: str) -> None:
    Image.new(mode, (8, 8), colour).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=reason):
        read_image(tmp_path / "a.tif", 8)


# --- mutated files ---


def encoded(format: str, mode: str = "RGB", **options: object) -> bytes:
    target = io.BytesIO()
    Image.fromarray(noise(height=20, width=24)).convert(mode).save(target, format, **options)
    return target.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6
WHOLE = [
    encoded("PNG"),
    encoded("PNG", "P"),
    encoded("PNG", "LA"),
    encoded("PNG", exif=EXIF),
    encoded("JPEG", exif=EXIF),
    encoded("JPEG", "CMYK"),
    encoded(
        "JPEG",
        progressive=True,
        icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ),
    encoded("GIF"),
    encoded("TIFF", compression="tiff_adobe_deflate"),
    encoded("BMP"),
    encoded("WEBP"),
    encoded("PPM"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An image file with a few bytes changed, most near its beginning, and perhaps its end cut off."""
    content = bytearray(draw(st.sampled_from(WHOLE)))
    position = st.integers(0, 120) | st.integers(0, len(content) - 1)
    for at, value in draw(st.lists(st.tuples(position, st.integers(0, 255)), max_size=6)):
        content[min(at, len(content) - 1)] = value
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


@given(content=mutated())
@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_mutated_file_is_an_image_or_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    try:
        pixels = read_image(path, 16)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
