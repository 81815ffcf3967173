"""Convolutions by Winograd's algorithm, against Paddle's own in float64."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from cifar_hapi.engine import onednn, winograd
from cifar_hapi.engine.execution import accelerate
from cifar_hapi.engine.memory import Buffer, BufferPool
from cifar_hapi.engine.onednn import Call, Desc, Memory
from cifar_hapi.engine.primitives import Geometry
from cifar_hapi.engine.winograd import WinogradConvolution
from cifar_hapi.networks.layers import ConvNorm, ResidualJoin
from tests.engine_comparison import assert_agree, both, outcome

compiled = pytest.mark.skipif(
    onednn.library_path() is None or not winograd.available(), reason="installed without a C compiler, or no oneDNN"
)
SAME = Geometry((3, 3), before=(1, 1), after=(1, 1))


def add(steps, primitive, memories):
    scratch = primitive.scratchpad
    steps.append(Call(primitive, {**memories, "scratchpad": Memory(scratch, np.zeros(scratch.size, "uint8"))}))


def computed(x, weights, gy):
    """Result, gradient of the input, gradient of the weights; maps as [N, C, H, W]."""
    (n, _, h, w), outgoing = x.shape, weights.shape[0]
    source, gx = Buffer(Desc(x.shape)), Buffer(Desc(x.shape))
    result, gradient = Buffer(Desc((n, outgoing, h, w))), Buffer(Desc((n, outgoing, h, w)))
    source.image()[:], gradient.image()[:] = x.transpose(0, 2, 3, 1), gy.transpose(0, 2, 3, 1)
    found = np.zeros_like(weights)
    convolution, steps = WinogradConvolution(source.desc, result.desc, BufferPool(), add), []
    kernels = Desc(weights.shape, "float32", "oihw")
    convolution.forward(steps, Memory(kernels, weights), source, result)
    convolution.backward(steps, source, gradient, gx, Memory(kernels, found))
    for step in steps:
        step.run()
    return result.image().transpose(0, 3, 1, 2), gx.image().transpose(0, 3, 1, 2), found


def expected(x, weights, gy):
    x, weights, gy = (paddle.to_tensor(each.astype("float64"), stop_gradient=False) for each in (x, weights, gy))
    y = F.conv2d(x, weights, padding=1)
    return [each.numpy() for each in (y, *paddle.grad(y, [x, weights], gy))]


def assert_right(n, incoming, outgoing, height, width):
    draw = np.random.default_rng(0).standard_normal
    arrays = [
        draw((n, incoming, height, width), "float32"),
        draw((outgoing, incoming, 3, 3), "float32"),
        draw((n, outgoing, height, width), "float32"),
    ]
    for found, right in zip(computed(*arrays), expected(*arrays), strict=True):
        assert np.linalg.norm(found - right) < 1e-5 * np.linalg.norm(right)


@compiled
@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(1, 5),
    incoming=st.sampled_from([8, 16, 24]),
    outgoing=st.sampled_from([8, 24, 40]),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
)
def test_every_extent_gives_what_paddle_gives(n, incoming, outgoing, height, width):
    assert_right(n, incoming, outgoing, height, width)


@compiled
def test_images_that_do_not_fit_into_the_cache_go_through_it_in_chunks():
    assert len(list(winograd._chunks(50, 16, 64, 64))) > 1
    assert_right(50, 64, 64, 15, 15)


@pytest.mark.parametrize(("n", "squares", "channels"), [(1, 1, 24), (7, 1024, 64), (64, 4, 64), (501, 16, 256)])
def test_chunks_take_every_image_once_and_are_about_equal(n, squares, channels):
    chunks = list(winograd._chunks(n, squares, channels, channels))
    assert [image for start, stop in chunks for image in range(start, stop)] == list(range(n))
    assert len({stop - start for start, stop in chunks}) <= 2


FITTING = (16, 32, 32, 8, 8)  # images, channels in and out, height, width


@pytest.mark.parametrize(
    ("extent", "geometry", "dtype", "tag"),
    [
        ((15, 32, 32, 8, 8), SAME, "float32", "nhwc"),  # too few squares
        ((16, 16, 32, 8, 8), SAME, "float32", "nhwc"),  # too few channels
        ((16, 32, 36, 8, 8), SAME, "float32", "nhwc"),  # not a multiple of 8
        ((64, 32, 32, 5, 5), SAME, "float32", "nhwc"),  # of 8x8 pixels, 39 would be outside
        ((16, 32, 32, 8, 132), SAME, "float32", "nhwc"),  # too large a side
        (FITTING, Geometry((3, 3)), "float32", "nhwc"),
        (FITTING, Geometry((3, 3), (2, 2), (1, 1), (1, 1)), "float32", "nhwc"),
        (FITTING, Geometry((3, 3), before=(1, 1), after=(1, 1), groups=2), "float32", "nhwc"),
        (FITTING, SAME, "bfloat16", "nhwc"),
        (FITTING, SAME, "float32", "nchw"),
    ],
)
@compiled
def test_other_convolutions_are_left_to_onednn(extent, geometry, dtype, tag):
    n, incoming, outgoing, *sides = extent
    x, y = Desc((n, incoming, *sides), dtype, tag), Desc((n, outgoing, *sides), dtype, tag)
    assert not winograd.pays(x, y, geometry)


class Network(nn.Layer):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2D(32, 32, 3, padding=1, bias_attr=False), nn.BatchNorm2D(32)
        self.third = nn.Conv2D(32, 24, 3, padding=1, bias_attr=False)

    def forward(self, x):
        return self.third(F.relu(self.second(self.first(x))))


@pytest.fixture
def maps_run(monkeypatch):
    """The names of the linear maps that were run."""
    names, made = [], winograd.LinearMap

    class Told(made):
        def __init__(self, name, *rest):
            super().__init__(name, *rest)
            self.name = name

        def run(self):
            names.append(self.name)
            super().run()

    monkeypatch.setattr(winograd, "LinearMap", Told)
    return names


IMAGES = np.random.default_rng(1).standard_normal(FITTING[:2] + FITTING[3:]).astype("float32")


MANY_IMAGES = np.random.default_rng(2).standard_normal((150, 32, 15, 15)).astype("float32")


@compiled
def test_a_training_step_of_a_network_goes_this_way_and_gives_what_paddle_gives(maps_run):
    native, fast = both(Network(), lambda network: outcome(network, IMAGES))
    assert_agree(fast, native, 1e-4)
    assert set(maps_run) == {
        *("spread_input", "spread_gradient", "spread_weights"),
        *("gather_output", "gather_gradient", "gather_weights"),
    }


class Residual(nn.Layer):
    def __init__(self, activation):
        super().__init__()
        self.first, self.second = ConvNorm(32, 32, 3, activation=None), ConvNorm(32, 32, 3, activation=None)
        self.activation, self.join = activation(), ResidualJoin()

    def forward(self, x):
        return self.join(self.second(self.activation(self.first(x))), x)


def evaluated(network):
    network.eval()
    with paddle.no_grad():
        return {"output": network(paddle.to_tensor(MANY_IMAGES)).numpy()}


@compiled
def test_an_evaluation_goes_this_way_where_nothing_follows_a_convolution_that_it_could_take_in(maps_run):
    network = nn.Sequential(nn.Conv2D(32, 32, 3, padding=1, bias_attr=False), nn.MaxPool2D(2), nn.BatchNorm2D(32))
    native, fast = both(network, evaluated)
    assert_agree(fast, native, 1e-5)
    assert "gather_output" in maps_run


@compiled
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Identity])
def test_an_evaluation_goes_this_way_with_all_that_follows_a_convolution(maps_run, activation):
    network = Residual(activation)
    for norm in (network.first.norm, network.second.norm):
        norm._mean.set_value(paddle.linspace(-1, 1, 32))
        norm._variance.set_value(paddle.linspace(0.5, 2, 32))
        norm.bias.set_value(paddle.linspace(1, -1, 32))
    native, fast = both(network, evaluated)
    assert_agree(fast, native, 1e-5)
    assert set(maps_run) == {"spread_input", "spread_weights", "gather_output"}
    assert maps_run.count("gather_output") > 2  # more than a chunk of each


@compiled
def test_frozen_weights_and_inputs_without_gradient_cost_nothing(maps_run):
    network = Network()
    network.third.weight.stop_gradient = True
    native, fast = both(network, lambda network: outcome(network, IMAGES, input_gradient=False))
    assert_agree(fast, native, 1e-4)
    assert maps_run.count("gather_weights") == 1 and maps_run.count("gather_gradient") == 1


@compiled
def test_a_layer_with_a_bias_goes_the_direct_way(maps_run):
    native, fast = both(nn.Conv2D(32, 32, 3, padding=1), lambda network: outcome(network, IMAGES))
    assert_agree(fast, native, 1e-4)
    assert not maps_run


@compiled
@pytest.mark.parametrize("threads", [1, 2])
def test_two_steps_give_the_same_bits(threads, monkeypatch):
    monkeypatch.setattr("cifar_hapi.engine.execution.threads", lambda: threads)
    network = Network()
    accelerate(network, "float32")
    first = outcome(network, IMAGES)
    network.clear_gradients()
    second = outcome(network, IMAGES)
    for name in first.keys() - {"second._mean", "second._variance"}:
        np.testing.assert_array_equal(first[name], second[name])


def test_without_a_compiler_convolutions_are_direct(monkeypatch):
    monkeypatch.setattr(winograd, "_maps", lambda: None)
    native, fast = both(Network(), lambda network: outcome(network, IMAGES))
    assert_agree(fast, native, 1e-4)


@compiled
def test_without_fast_products_convolutions_are_direct(monkeypatch):
    monkeypatch.setattr(onednn.PrimitiveDesc, "fast", property(lambda self: "gemm" not in self.implementation))
    native, fast = both(Network(), lambda network: outcome(network, IMAGES))
    assert_agree(fast, native, 1e-4)
