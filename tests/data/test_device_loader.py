"""The device loader beside the host's: on a CPU here, where the same operations run."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hapi.data.augment import Augmentation
from cifar_hapi.data.device_loader import DeviceLoader, fits_on
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.errors import RecipeError

EVERYTHING = Augmentation(crop_padding=2, padding_mode="zero", flip="random", cutout=3)
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


def image_set(count=10, height=6, width=5):
    images = np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return ImageSet(images, np.arange(count) % 7, tuple("abcdefg"))


def assert_same_batch(found, expected):
    (images, labels), (expected_images, expected_labels) = found, expected
    assert (images.dtype, labels.dtype) == (paddle.float32, paddle.int64)
    np.testing.assert_allclose(images.numpy(), expected_images, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(labels.numpy(), expected_labels)


augmentations = st.none() | st.builds(
    Augmentation,
    crop_padding=st.integers(0, 5),
    padding_mode=st.sampled_from(["reflect", "zero"]),
    flip=st.sampled_from(["random", "alternating", "none"]),
    cutout=st.integers(0, 8),
)


@given(
    augmentation=augmentations,
    data_format=st.sampled_from(["NCHW", "NHWC"]),
    count=st.integers(1, 9),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    batch_size=st.integers(1, 10),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 3),
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_batches_are_those_of_the_host_loader(count, height, width, batch_size, epoch, **options):
    images = image_set(count, height, width)
    host, device = (cls(images, batch_size, **CIFAR, **options) for cls in (BatchLoader, DeviceLoader))

    for step in range(len(host)):
        assert_same_batch(device.batch(epoch, step), host.batch(epoch, step))


def test_a_rank_has_its_share_of_a_batch():
    options = {"augmentation": EVERYTHING, "shuffle": True, "ranks": 3, **CIFAR}
    for rank in range(3):
        host, device = (cls(image_set(), 5, rank=rank, **options) for cls in (BatchLoader, DeviceLoader))
        assert_same_batch(device.batch(1, 1), host.batch(1, 1))


@pytest.mark.parametrize("sides", [(6, 5), (8, 8)])
def test_images_of_the_first_epochs_are_shrunk_as_on_the_host(sides):
    options = {"augmentation": EVERYTHING, "shuffle": True, "small_size": 3, "small_epochs": 1, **CIFAR}
    host, device = (cls(image_set(10, *sides), 5, **options) for cls in (BatchLoader, DeviceLoader))

    for epoch, expected in enumerate([(3, 3), sides]):
        assert host.batch(epoch, 1)[0].shape[2:] == expected
        assert_same_batch(device.batch(epoch, 1), host.batch(epoch, 1))


def test_an_iteration_is_that_of_the_host_loader_from_any_step_on():
    host, device = (
        cls(image_set(23), 4, augmentation=EVERYTHING, shuffle=True, drop_last=True, **CIFAR)
        for cls in (BatchLoader, DeviceLoader)
    )
    for loader in (host, device):
        loader.set_epoch(3, 2)

    for _ in range(2):
        batches = list(device)
        for found, expected in zip(batches, host, strict=True):
            assert_same_batch(found, expected)
    assert len(batches) == len(device) == 5


def test_the_host_draws_and_moves_once_an_epoch(monkeypatch):
    moved = []
    loader = DeviceLoader(image_set(20), 4, augmentation=EVERYTHING, shuffle=True)
    to_tensor = paddle.to_tensor
    monkeypatch.setattr(paddle, "to_tensor", lambda *data, **more: moved.append(1) or to_tensor(*data, **more))

    for epochs in (1, 2):
        assert len(list(loader)) == 5
        assert len(moved) == epochs


def test_cutout_is_zero_after_normalisation_as_on_the_host():
    loader = DeviceLoader(image_set(6), 6, augmentation=Augmentation(cutout=100), mean=(0.2, 0.4, 0.6))
    np.testing.assert_allclose(loader.batch(0, 0)[0].numpy(), 0, atol=1e-6)


@pytest.mark.parametrize("step", [-1, 3])
def test_a_step_outside_of_the_epoch_has_no_batch(step):
    with pytest.raises(IndexError, match=f"step {step}"):
        DeviceLoader(image_set(10), 4).batch(0, step)


def test_arguments_are_checked_as_the_host_loader_does():
    with pytest.raises(RecipeError, match="data_format is 'CHWN'"):
        DeviceLoader(image_set(10), 4, data_format="CHWN")


@pytest.mark.parametrize(
    ("device", "memory", "fits"), [("gpu:0", 7200, True), ("gpu:0", 7199, False), ("cpu", 1e9, False)]
)
def test_a_set_fits_that_takes_a_quarter_of_a_gpu_at_most(monkeypatch, device, memory, fits):
    class Properties:
        total_memory = memory

    monkeypatch.setattr(paddle.device.cuda, "get_device_properties", lambda device: Properties)
    assert fits_on(device, image_set(20, 6, 5), None) is fits  # 20 * 6 * 5 * 3 = 1800 bytes
