"""Resizing beside paddle.vision's, and that loaders resize batches and nothing else."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.vision import transforms
from PIL import Image

from cifar_hapi.data.augment import Augmentation
from cifar_hapi.data.device_loader import DeviceLoader
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.resize import PRECISION, resize, taps
from cifar_hapi.errors import RecipeError


def images(count, height=32, width=32):
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def image_set(count, side=32):
    return ImageSet(images(count, side, side), np.arange(count) % 3, tuple("abc"))


def by_paddle_vision(batch, size):
    to_size = transforms.Resize((size, size))
    return np.stack([np.asarray(to_size(Image.fromarray(image))) for image in batch])


@pytest.mark.parametrize("size", [224, 64, 33, 32, 31, 16, 7, 1])
@pytest.mark.parametrize("count", [1, 8, 13])
def test_every_pixel_is_that_of_paddle_vision(count, size):
    np.testing.assert_array_equal(resize(images(count), size), by_paddle_vision(images(count), size))


@given(count=st.integers(1, 3), side=st.integers(1, 40), size=st.integers(1, 60))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_so_it_is_for_any_size(count, side, size):
    batch = images(count, side, side)
    np.testing.assert_array_equal(resize(batch, size), by_paddle_vision(batch, size))


@given(before=st.integers(1, 40), after=st.integers(1, 80))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_the_taps_of_a_line_make_the_same_pixels(before, after):
    line = images(1, 1, before)
    places, weights = taps(before, after)
    total = sum(
        line[:, :, place].astype(np.int32) * weight[:, None] for place, weight in zip(places, weights, strict=True)
    )
    expected = np.asarray(Image.fromarray(line[0]).resize((after, 1), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal((total[0] + (1 << PRECISION - 1)) >> PRECISION, expected)


AUGMENTED = Augmentation(crop_padding=3, flip="random", cutout=9)


@pytest.mark.parametrize("augmentation", [None, AUGMENTED])
@pytest.mark.parametrize("side", [5, 32])
def test_both_loaders_make_the_same_resized_batches(augmentation, side):
    options = {"image_size": 20, "augmentation": augmentation, "shuffle": True, "std": (0.2, 0.3, 0.4)}
    host, device = (cls(image_set(11, side), 4, **options) for cls in (BatchLoader, DeviceLoader))
    for epoch, step in ((0, 0), (1, 0), (1, 2)):
        expected, labels = host.batch(epoch, step)
        found, found_labels = device.batch(epoch, step)
        assert expected.shape == (3 if step == 2 else 4, 3, 20, 20)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found_labels.numpy(), labels)


def test_augmentation_is_in_pixels_of_the_resized_image():
    loader = BatchLoader(image_set(6), 6, image_size=64, augmentation=AUGMENTED)
    windows = loader.choices(0, 0).squares
    assert loader.choices(0, 0).windows.max() <= 6 and windows.max() > 32
    batch, _ = loader.batch(0, 0)
    assert batch.shape == (6, 3, 64, 64)


def test_without_augmentation_a_batch_is_what_to_tensor_and_normalize_make_of_resized_images():
    loader = BatchLoader(image_set(4), 4, image_size=48, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    each = transforms.Compose(
        [
            transforms.Resize(48),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    expected = np.stack([each(Image.fromarray(image)).numpy() for image in images(4)])
    np.testing.assert_allclose(loader.batch(0, 0)[0], expected, rtol=1e-5, atol=1e-6)


def test_the_set_is_never_resized_as_a_whole():
    whole = image_set(2000)
    loader = BatchLoader(whole, 8, image_size=128, prefetch=0, shuffle=True)
    tracemalloc.start()
    try:
        for epoch, step in ((0, 0), (1, 3), (2, 5)):  # a second epoch is when canvases would be made
            loader.batch(epoch, step)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000  # all 2000 would take 98 million
    finally:
        tracemalloc.stop()


def test_images_that_have_the_size_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr("cifar_hapi.data.loader.resize", None)
    assert BatchLoader(image_set(2), 2, image_size=32).batch(0, 0)[0].shape == (2, 3, 32, 32)


@pytest.mark.parametrize("size", [0, -3])
def test_no_size_is_refused(size):
    with pytest.raises(RecipeError, match=f"image_size is {size}: it must be 1 or more"):
        BatchLoader(image_set(2), 2, image_size=size)
