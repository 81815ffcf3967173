"""Each layer that the engine knows computes what Paddle's own kernel computes, over random shapes and arguments."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from engine_comparison import assert_agree, both, needs_bfloat16, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paddle import nn

from cifar_hapi.engine import onednn
from cifar_hapi.networks.layers import PadShortcut

pytestmark = pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")
quick = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

sides = st.integers(5, 13)
pairs = st.tuples(st.integers(0, 2), st.integers(0, 2))
formats = st.sampled_from(["NCHW", "NHWC"])


def maps(batch, channels, height, width, data_format):
    shape = (batch, channels, height, width) if data_format == "NCHW" else (batch, height, width, channels)
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


@st.composite
def convolutions(draw):
    groups, data_format = draw(st.sampled_from([1, 1, 1, 2, 4])), draw(formats)
    incoming, outgoing = groups * draw(st.integers(1, 6)), groups * draw(st.integers(1, 9))
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    padding = draw(st.one_of(st.integers(0, 2), pairs, st.tuples(*[st.integers(0, 2)] * 4)))
    stride, dilation = draw(st.tuples(*[st.integers(1, 2)] * 2)), draw(st.integers(1, 2))
    paddle.seed(draw(st.integers(0, 99)))
    options = {"padding": padding, "stride": stride, "dilation": dilation, "groups": groups}
    bias = None if draw(st.booleans()) else False
    return nn.Conv2D(incoming, outgoing, kernel, **options, data_format=data_format, bias_attr=bias)


@quick
@given(conv=convolutions(), batch=st.integers(1, 3), height=sides, width=sides, input_gradient=st.booleans())
def test_convolutions_of_every_shape(conv, batch, height, width, input_gradient):
    x = maps(batch, conv.weight.shape[1] * conv._groups, height + 8, width + 8, conv._data_format)
    native, fast = both(conv, lambda layer: outcome(layer, x, input_gradient))
    assert_agree(fast, native, 1e-4)


@quick
@given(
    channels=st.integers(1, 20),
    batch=st.integers(1, 3),
    height=sides,
    width=sides,
    data_format=formats,
    momentum=st.sampled_from([0.9, 0.6]),
    relu=st.booleans(),
    mode=st.sampled_from(["training", "evaluation", "frozen statistics"]),
)
def test_batch_norm_in_every_mode(channels, batch, height, width, data_format, momentum, relu, mode):
    frozen = True if mode == "frozen statistics" else None
    norm = nn.BatchNorm2D(channels, momentum, data_format=data_format, use_global_stats=frozen)
    network = nn.Sequential(norm, nn.ReLU()) if relu else nn.Sequential(norm)
    rng = np.random.default_rng(2)
    for tensor in (norm.weight, norm.bias, norm._mean):
        tensor.set_value(rng.standard_normal(channels).astype("float32"))
    norm._variance.set_value(rng.uniform(0.5, 2, channels).astype("float32"))
    network.eval() if mode == "evaluation" else network.train()
    x = maps(batch, channels, height, width, data_format)
    native, fast = both(network, lambda layer: outcome(layer, x))
    assert_agree(fast, native, 2e-4)


ACTIVATIONS = {"gelu": nn.GELU(), "gelu by tanh": nn.GELU(approximate=True), "silu": nn.Silu()}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("after", ["input", "convolution", "norm"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_smooth_activations_everywhere(name, after, mode):
    before = {"input": [], "convolution": [nn.Conv2D(5, 5, 3)], "norm": [nn.Conv2D(5, 5, 3), nn.BatchNorm2D(5)]}
    network = nn.Sequential(*before[after], ACTIVATIONS[name], nn.Conv2D(5, 3, 1))
    getattr(network, mode)()
    x = 3 * maps(2, 5, 7, 6, "NCHW")
    native, fast = both(network, lambda layer: outcome(layer, x))
    assert_agree(fast, native, 1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_pass_nan_and_infinity_through_as_paddle_does(name):
    network = nn.Sequential(ACTIVATIONS[name], nn.Conv2D(5, 5, 1))
    network[1].weight.set_value(np.eye(5, dtype="float32").reshape(5, 5, 1, 1))
    x = maps(1, 5, 4, 4, "NCHW")
    x[0, :, 0, 0] = [np.nan, np.inf, -np.inf, 80, -80]
    native, fast = both(network, lambda layer: layer(paddle.to_tensor(x)).numpy()[0, :, 1:, 1:])
    assert np.isfinite(native).all()
    np.testing.assert_allclose(fast, native, atol=1e-5)
    native, fast = both(network, lambda layer: np.isnan(layer(paddle.to_tensor(x)).numpy()[0, 0]))
    np.testing.assert_array_equal(fast, native)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_channels_that_a_shortcut_adds_are_zero_every_time(mode, stride):
    """Also where later maps of the same shape could take their place in memory."""
    convs = [nn.Conv2D(16, 16, 3, padding=1) for _ in range(4)]
    network = nn.Sequential(PadShortcut(3, 16, stride), *convs)
    getattr(network, mode)()
    x = maps(2, 3, 8, 8, "NCHW")

    def use(layer):
        with paddle.set_grad_enabled(mode == "train"):
            return {str(place): layer(paddle.to_tensor(x)).numpy() for place in range(2)}

    native, fast = both(network, use)
    assert_agree(fast, native, 1e-5)


def test_a_single_value_a_channel_is_left_as_it_is():
    network = nn.Sequential(nn.BatchNorm2D(3), nn.ReLU())
    x = np.array([3.0, -2.0, 0.5], "float32").reshape(1, 3, 1, 1)
    native, fast = both(network, lambda layer: outcome(layer, x))
    assert_agree(fast, native, 1e-5)


POOLS = [
    *(
        lambda f, kernel=kernel, stride=stride, padding=padding: nn.MaxPool2D(kernel, stride, padding, data_format=f)
        for kernel, stride, padding in [(2, None, 0), (3, 2, 1), ((3, 2), 1, 1)]
    ),
    lambda f: nn.AvgPool2D(2, data_format=f),
    lambda f: nn.AvgPool2D(3, 2, 1, exclusive=True, data_format=f),
    lambda f: nn.AvgPool2D(3, 2, 1, exclusive=False, data_format=f),
    lambda f: nn.AdaptiveAvgPool2D(1, data_format=f),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize("pool", range(len(POOLS)))
def test_pools(pool, data_format, training):
    paddle.seed(1)
    network = nn.Sequential(nn.Conv2D(3, 5, 3, data_format=data_format), POOLS[pool](data_format))
    network.train() if training else network.eval()
    x = maps(2, 3, 11, 12, data_format)
    native, fast = both(network, lambda layer: outcome(layer, x))
    assert_agree(fast, native, 1e-4)


class Residual(nn.Layer):
    """Sums of every kind: of a map with itself, with an older one, before and after ReLU."""

    def __init__(self, data_format="NCHW"):
        super().__init__()
        form = {"data_format": data_format}
        self.first = nn.Conv2D(3, 16, 3, padding=1, **form)
        self.second = nn.Conv2D(16, 16, 3, padding=1, bias_attr=False, **form)
        self.norm, self.relu = nn.BatchNorm2D(16, **form), nn.ReLU()

    def forward(self, x):
        x = self.first(x)
        y = self.norm(self.second(x))
        y = y + y
        y += x
        return self.relu(y) + x


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
def test_sums(data_format, mode):
    paddle.seed(3)
    network = Residual(data_format)
    getattr(network, mode)()
    native, fast = both(network, lambda layer: outcome(layer, maps(2, 3, 9, 7, data_format)))
    assert_agree(fast, native, 1e-4)


@needs_bfloat16
@pytest.mark.parametrize("side", [4, 16, 20])
@pytest.mark.parametrize("channels", [5, 16, 32])
def test_bfloat16_is_near_in_every_layout(channels, side):
    paddle.seed(4)
    convs = [nn.Conv2D(3, channels, 3, padding=1), nn.Conv2D(channels, 2 * channels, 3, 2, padding=1)]
    network = nn.Sequential(*convs)
    native, fast = both(network, lambda layer: outcome(layer, maps(2, 3, side, side, "NCHW")), "bfloat16")
    assert_agree(fast, native, 0.02)
    assert not np.array_equal(fast["output"], native["output"])


@pytest.mark.parametrize("frozen", [["0.weight"], ["1.weight", "1.bias"], ["0.weight", "0.bias", "1.weight", "1.bias"]])
def test_frozen_parameters(frozen):
    paddle.seed(5)
    network = nn.Sequential(nn.Conv2D(3, 6, 3), nn.BatchNorm2D(6), nn.ReLU(), nn.Conv2D(6, 4, 3))

    def use(layer):
        for name, parameter in layer.named_parameters():
            parameter.stop_gradient = parameter.stop_gradient or name in frozen
        return outcome(layer, maps(3, 3, 10, 10, "NCHW"), input_gradient=False)

    native, fast = both(network, use)
    assert not any(f"gradient of {name}" in fast for name in frozen)
    assert_agree(fast, native, 1e-3)


def test_gradients_are_finite_differences():
    paddle.seed(6)
    network = nn.Sequential(nn.Conv2D(2, 3, 3), nn.BatchNorm2D(3), nn.MaxPool2D(2), nn.Conv2D(3, 2, 2))
    _, gradients = both(network, lambda layer: outcome(layer, maps(2, 2, 10, 10, "NCHW")))
    weights = np.random.default_rng(5).standard_normal(gradients["output"].shape)

    def loss(layer):
        with paddle.no_grad():
            return float(
                (layer(paddle.to_tensor(maps(2, 2, 10, 10, "NCHW"))).numpy().astype("float64") * weights).sum()
            )

    def differences(layer):
        layer.train()
        for name, parameter in [(name, each) for name, each in layer.named_parameters() if not each.stop_gradient]:
            value = parameter.numpy()
            for place in list(np.ndindex(*value.shape))[:6]:
                found = []
                for step in (1e-2, -1e-2):
                    moved = value.copy()
                    moved[place] += step
                    parameter.set_value(moved)
                    found.append(loss(layer))
                parameter.set_value(value)
                expected = float(gradients[f"gradient of {name}"][place])
                assert (found[0] - found[1]) / 2e-2 == pytest.approx(expected, rel=0.05, abs=0.05), (name, place)

    both(network, differences)


@pytest.mark.parametrize("order", [(0, 1, 3, 2), (0, 3, 1, 2)])
def test_transposed_and_sliced_inputs(order):
    paddle.seed(7)
    conv, shape = nn.Conv2D(3, 4, 3), [2, 3, 8, 8] if order == (0, 1, 3, 2) else [2, 8, 8, 3]
    start = np.random.default_rng(8).standard_normal(shape).astype("float32")

    def use(layer):
        source = paddle.to_tensor(start, stop_gradient=False)
        view = source.transpose(order)[:, :, 1:]
        output = layer(view)
        (output * output).sum().backward()
        return {"output": output.numpy(), "gradient": source.grad.numpy(), "weights": layer.weight.grad.numpy()}

    native, fast = both(conv, use)
    assert_agree(fast, native, 1e-4)
