"""Whatever is fed to an accelerated network: what Paddle makes of it, and never a crash."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paddle import nn

from cifar_hapi.engine import onednn
from cifar_hapi.engine.execution import accelerate

pytestmark = pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")


def network(fast):
    paddle.seed(0)
    layers = nn.Sequential(
        nn.Conv2D(3, 8, 3), nn.BatchNorm2D(8), nn.ReLU(), nn.MaxPool2D(2), nn.Conv2D(8, 4, 2), nn.AdaptiveAvgPool2D(1)
    )
    assert not fast or accelerate(layers, "float32")
    return layers


NATIVE, FAST = network(False), network(True)


def answer(layers, x):
    """The result, or the type of the exception."""
    try:
        with paddle.no_grad():
            return layers(x).numpy()
    except Exception as error:  # noqa: BLE001  # whatever Paddle raises
        return type(error)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    dtype=st.sampled_from(["float32", "float64", "float16", "int64", "uint8"]),
    channels=st.booleans(),
    training=st.booleans(),
)
def test_any_shape_and_type(shape, dtype, channels, training):
    if channels and len(shape) > 1:
        shape[1] = 3
    x = paddle.to_tensor(np.ones(shape, dtype))
    found = []
    for layers in (NATIVE, FAST):
        layers.train() if training else layers.eval()
        found.append(answer(layers, x))
    native, fast = found
    if isinstance(native, type):
        assert fast is native
    else:
        np.testing.assert_allclose(fast, native, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("x", [None, 3, "image", [[1.0]], np.ones((1, 3, 8, 8), "float32"), ()])
def test_what_is_no_tensor(x):
    assert answer(FAST, x) is answer(NATIVE, x)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 3, 2, 8), (2, 3, 1, 1), (2, 5, 8, 8)])
def test_empty_small_and_mismatched(shape):
    for layers in (NATIVE, FAST):
        layers.eval()
    native, fast = (answer(layers, paddle.zeros(shape)) for layers in (NATIVE, FAST))
    assert (fast is native) if isinstance(native, type) else np.array_equal(fast, native)


def test_a_parameter_of_another_shape_is_paddles_error():
    found = []
    for fast in (False, True):
        layers = network(fast)
        layers(paddle.ones([1, 3, 8, 8]))
        layers[4].weight = layers.create_parameter([4, 7, 2, 2])
        found.append(answer(layers, paddle.ones([1, 3, 8, 8])))
    assert isinstance(found[0], type) and found[0] is found[1]


def test_a_parameter_of_another_type_in_the_same_memory_is_paddles_error():
    found = []
    for fast in (False, True):
        conv = nn.Conv2D(3, 4, 3)
        assert not fast or accelerate(conv, "float32")
        conv(paddle.ones([1, 3, 8, 8]))
        conv._parameters["weight"] = conv.weight.detach().view("int32")
        found.append(answer(conv, paddle.ones([1, 3, 8, 8])))
    assert isinstance(found[0], type) and found[0] is found[1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batch_norm_of_what_is_not_finite_is_as_silent_as_paddles(mode):
    layers = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4))
    accelerate(layers, "float32")
    layers[1]._variance.set_value(np.array([-1, np.inf, np.nan, 1], "float32"))
    layers[1]._mean.set_value(np.array([1, 1, 1, np.inf], "float32"))
    layers[0].bias.set_value(np.array([1, 1, 1, -np.inf], "float32"))
    getattr(layers, mode)()
    with paddle.no_grad():
        assert np.isnan(layers(paddle.ones([1, 3, 8, 8])).numpy()).any()


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 16])
def test_a_max_pool_loses_no_window_that_is_all_nan(channels, precision, mode):
    """Of a window with numbers too, Paddle gives NaN or a number, by the order, and oneDNN the number."""
    one = nn.initializer.Constant(1.0)
    layers = nn.Sequential(nn.Conv2D(1, channels, 1, weight_attr=one), nn.MaxPool2D(2))
    x = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype("float32")
    x[0, 0, 2:4, 2:6] = np.nan
    x[0, 0, 8, 8] = np.nan
    expected = layers(paddle.to_tensor(x)).numpy()
    accelerate(layers, precision)
    getattr(layers, mode)()
    with paddle.no_grad():
        found = layers(paddle.to_tensor(x)).numpy()
    assert np.isnan(found).sum() == 2 * channels
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["input", "weight", "running variance"])
def test_nan_and_infinity_come_out_where_paddle_has_them(where, bad):
    found = []
    for fast in (False, True):
        paddle.seed(0)
        layers = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.Conv2D(4, 2, 3))
        assert not fast or accelerate(layers, "float32")
        x = np.ones((2, 3, 8, 8), "float32")
        if where == "input":
            x[0, 0, 0, 0] = bad
        if where == "weight":
            weight = layers[0].weight.numpy()
            weight[1, 0, 0, 0] = bad
            layers[0].weight.set_value(weight)
        if where == "running variance":
            layers[1]._variance.set_value(np.full(4, bad, "float32"))
        layers.train()
        output = layers(paddle.to_tensor(x)).numpy()
        found.append([output, layers[1]._mean.numpy(), layers[1]._variance.numpy()])
        layers.eval()
        found[-1].append(layers(paddle.to_tensor(x)).numpy())
    for native, fast in zip(*found, strict=True):
        np.testing.assert_array_equal(np.isfinite(fast), np.isfinite(native))
