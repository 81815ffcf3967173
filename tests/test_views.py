"""Test-time augmentation averages what it says."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from cifar_hapi.views import AveragedViews


class Pixels(paddle.nn.Layer):
    """A network whose logits are its input."""

    def forward(self, images):
        return images.flatten(1)


def views(images):
    """The six views of [N, H, W, C] images and their weights, in NumPy."""
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    height, width = images.shape[1:3]
    shifted = [padded[:, at : at + height, at : at + width] for at in (1, 2, 0)]
    return [(0.25, shifted[0]), (0.125, shifted[1]), (0.125, shifted[2])]


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", ["plain", "flip", "flip_shift"])
def test_the_answer_is_the_mean_over_the_views(kind, data_format):
    images = np.random.default_rng(0).standard_normal((2, 5, 6, 3)).astype("float32")
    to_format = (0, 1, 2, 3) if data_format == "NHWC" else (0, 3, 1, 2)
    found = AveragedViews(Pixels(), kind, data_format)(paddle.to_tensor(images.transpose(to_format))).numpy()
    expected = {
        "plain": images,
        "flip": (images + images[:, :, ::-1]) / 2,
        "flip_shift": sum(weight * (view + view[:, :, ::-1]) for weight, view in views(images)),
    }[kind]
    np.testing.assert_allclose(found, expected.transpose(to_format).reshape(2, -1), rtol=1e-5, atol=1e-6)


def test_one_view_is_the_network_itself_bit_for_bit():
    images = paddle.randn([2, 3, 4, 4])
    np.testing.assert_array_equal(AveragedViews(Pixels(), "plain")(images).numpy(), Pixels()(images).numpy())
