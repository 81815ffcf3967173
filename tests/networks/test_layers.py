import math

import numpy as np
import paddle
import pytest

from cifar_hapi.networks.layers import (
    Classifier,
    ConvNorm,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool,
    PadShortcut,
    ResidualJoin,
)

both_formats = pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])


def feature_map(n=2, channels=3, height=5, width=7):
    """Float32 [N, C, H, W]."""
    return np.random.default_rng(0).standard_normal((n, channels, height, width)).astype("float32")


def run(layer, x, data_format):
    """What `layer` makes of the [N, C, H, W] array `x` in its data format, as [N, C, H, W] or [N, C]."""
    if data_format == "NCHW":
        return layer(paddle.to_tensor(x)).numpy()
    y = layer(paddle.to_tensor(x.transpose(0, 2, 3, 1))).numpy()
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


@pytest.mark.parametrize(("in_channels", "kernel_size"), [(64, 3), (256, 1), (16, 7)])
def test_convolutions_start_with_the_spread_of_he_et_al(in_channels, kernel_size):
    paddle.seed(0)
    weight = ConvNorm(in_channels, 200, kernel_size).conv.weight.numpy()
    expected = math.sqrt(2 / (in_channels * kernel_size**2))
    assert weight.shape == (200, in_channels, kernel_size, kernel_size)
    assert abs(weight.mean()) < 0.02 * expected
    assert weight.std() == pytest.approx(expected, rel=0.02)
    kurtosis = (weight**4).mean() / weight.var() ** 2
    assert kurtosis == pytest.approx(3, abs=0.1)  # normal: 3, uniform: 1.8


def test_norms_start_as_the_identity_and_convolutions_have_no_bias():
    layer = ConvNorm(3, 8, 3)
    assert layer.conv.bias is None
    for name, value in {"weight": 1, "bias": 0, "_mean": 0, "_variance": 1}.items():
        np.testing.assert_array_equal(layer.norm.state_dict()[name].numpy(), np.full(8, value))


def test_a_classifier_starts_uniform_with_no_bias():
    paddle.seed(0)
    layer = Classifier(400, 100)
    weight = layer.weight.numpy()
    assert np.abs(weight).max() == pytest.approx(1 / 20, rel=0.001)
    assert weight.std() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.02)
    assert not layer.bias.numpy().any()


def test_a_classifier_scales_its_logits():
    features = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
    layer = Classifier(6, 3, bias=False, scale=0.125)
    logits = layer(paddle.to_tensor(features)).numpy()
    np.testing.assert_allclose(logits, features @ layer.weight.numpy() / 8, rtol=1e-5, atol=1e-6)
    assert list(layer.state_dict()) == ["weight"]


@both_formats
@pytest.mark.parametrize(
    ("kernel_size", "stride", "size", "out"),
    [(3, 1, (5, 7), (5, 7)), (3, 2, (5, 8), (3, 4)), (1, 2, (5, 8), (3, 4)), (7, 2, (9, 8), (5, 4))],
)
def test_a_convolution_keeps_the_size_or_halves_it_rounding_up(data_format, kernel_size, stride, size, out):
    layer = ConvNorm(3, 4, kernel_size, stride, data_format=data_format)
    assert run(layer, feature_map(2, 3, *size), data_format).shape == (2, 4, *out)


@both_formats
def test_conv_norm_normalises_each_channel_and_then_cuts_negatives(data_format):
    paddle.seed(0)
    linear = ConvNorm(3, 4, 3, activation=None, data_format=data_format)
    rectified = ConvNorm(3, 4, 3, data_format=data_format)
    rectified.set_state_dict(linear.state_dict())
    y = run(linear, feature_map(), data_format)
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, atol=1e-3)
    np.testing.assert_allclose(run(rectified, feature_map(), data_format), y.clip(0), atol=1e-6)


def test_an_unknown_activation_is_refused():
    with pytest.raises(KeyError, match="tanh"):
        ConvNorm(3, 4, 3, activation="tanh")


def test_a_join_adds_and_then_cuts_negatives():
    x = feature_map()
    y = ResidualJoin()(paddle.to_tensor(x), paddle.to_tensor(x[::-1].copy())).numpy()
    np.testing.assert_array_equal(y, (x + x[::-1]).clip(0))


@both_formats
def test_a_pad_shortcut_subsamples_and_appends_zero_channels(data_format):
    x = feature_map()
    layer = PadShortcut(3, 5, 2, data_format)
    expected = np.concatenate([x[:, :, ::2, ::2], np.zeros((2, 2, 3, 4), "float32")], axis=1)
    np.testing.assert_array_equal(run(layer, x, data_format), expected)
    assert not layer.state_dict()


@both_formats
def test_a_pad_shortcut_hands_the_gradient_to_the_pixels_it_took(data_format):
    shape = (1, 2, 3, 3) if data_format == "NCHW" else (1, 3, 3, 2)
    x = paddle.zeros(shape)
    x.stop_gradient = False
    PadShortcut(2, 4, 2, data_format)(x).sum().backward()
    taken = x.grad.numpy() if data_format == "NCHW" else x.grad.numpy().transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(taken, np.broadcast_to([[1, 0, 1], [0, 0, 0], [1, 0, 1]], (1, 2, 3, 3)))


@both_formats
def test_max_pool_windows_lie_side_by_side_unless_told_otherwise(data_format):
    x = feature_map(2, 3, 6, 9)
    halves = x[:, :, :, :8].reshape(2, 3, 3, 2, 4, 2).max((3, 5))
    np.testing.assert_array_equal(run(MaxPool(2, data_format=data_format), x, data_format), halves)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf), (3, 3), axis=(2, 3)
    )
    overlapping = MaxPool(3, stride=2, padding=1, data_format=data_format)
    np.testing.assert_array_equal(run(overlapping, x, data_format), windows[:, :, ::2, ::2].max((4, 5)))


@both_formats
def test_global_pools_reduce_each_channel(data_format):
    x = feature_map()
    np.testing.assert_allclose(
        run(GlobalAveragePool(data_format), x, data_format), x.mean((2, 3)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(run(GlobalMaxPool(data_format), x, data_format), x.max((2, 3)))


@both_formats
def test_of_equal_largest_values_one_receives_the_gradient(data_format):
    x = paddle.ones((1, 2, 2, 2))
    x.stop_gradient = False
    GlobalMaxPool(data_format)(x).sum().backward()
    assert sorted(x.grad.numpy().ravel()) == [0] * 6 + [1] * 2
