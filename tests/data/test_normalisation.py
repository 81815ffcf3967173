import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hapi.data.normalisation import channel_statistics, normalise

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
EVERY_VALUE = np.stack([np.roll(np.arange(256, dtype=np.uint8), k) for k in (0, 85, 170)], -1).reshape(2, 8, 16, 3)


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
def test_every_pixel_value_agrees_with_float64(data_format):
    pixels = normalise(EVERY_VALUE, MEAN, STD, data_format)

    reference = (EVERY_VALUE.astype(np.float64) / 255 - MEAN) / STD
    if data_format == "NCHW":
        reference = reference.transpose(0, 3, 1, 2)
    assert pixels.dtype == np.float32 and pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels, reference, rtol=0, atol=5e-7)


def test_the_layouts_are_transposes_of_each_other():
    nchw, nhwc = (normalise(EVERY_VALUE, MEAN, STD, name) for name in ("NCHW", "NHWC"))

    assert np.array_equal(nchw.transpose(0, 2, 3, 1), nhwc)


def test_the_default_of_mean_0_and_std_1_spans_0_to_1():
    pixels = normalise(EVERY_VALUE, (0.0,) * 3, (1.0,) * 3, "NHWC")

    assert pixels.min() == 0 and pixels.max() == 1


@given(count=st.integers(1, 12), seed=st.integers(0, 99), high=st.sampled_from([1, 2, 256]))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_channel_statistics_agree_with_float64(count, seed, high):
    images = np.random.default_rng(seed).integers(0, high, (count, 3, 5, 3), dtype=np.uint8)

    mean, std = channel_statistics(images)

    exact = images.reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, exact.std(axis=0), rtol=1e-12)


def test_channel_statistics_cover_more_than_one_block_of_images():
    images = np.zeros((2500, 1, 1, 3), np.uint8)
    images[2000:] = (255, 51, 0)

    mean, std = channel_statistics(images)

    np.testing.assert_allclose(mean, (0.2, 0.04, 0), rtol=1e-14)
    np.testing.assert_allclose(std, (0.4, 0.08, 0), rtol=1e-14)
