import numpy as np
import paddle
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from cifar_hapi.networks.airbench import Airbench, whitening_filters
from tests.networks.test_speednet import documented, multiply_adds


def smooth_images(n=64):
    """float32 [n, 32, 32, 3], neighbouring pixels alike."""
    noise = np.random.default_rng(0).standard_normal((n, 34, 34, 3)).astype(np.float32)
    return sliding_window_view(noise, (3, 3), axis=(1, 2)).mean(axis=(-1, -2)) * [1.0, 2.0, 0.5] + 0.1


@pytest.mark.parametrize("width", [64, 48, 32])
def test_the_documented_costs_are_right(width):
    network = Airbench(width=width)
    trained = sum(int(np.prod(p.shape)) for p in network.parameters() if not p.stop_gradient)
    assert trained == documented(1, Airbench)[width]
    assert multiply_adds(network) == documented(2, Airbench)[width]


def test_whitened_patches_are_uncorrelated_and_of_variance_1():
    images = smooth_images().astype(np.float32)
    filters = whitening_filters(images, epsilon=0.0)
    patches = sliding_window_view(images, (2, 2), axis=(1, 2)).reshape(-1, 12)
    answers = patches @ filters[:8].reshape(8, 12).T
    np.testing.assert_allclose(answers.T @ answers / len(answers), np.eye(8), atol=1e-2)


def test_the_second_half_of_the_filters_is_the_negative_of_the_first():
    filters = whitening_filters(smooth_images().astype(np.float32))
    np.testing.assert_array_equal(filters[8:], -filters[:8])


@pytest.mark.parametrize(("whitening", "count"), [("strongest", 16), ("all", 24)])
def test_a_network_has_the_filters_of_the_components_that_were_asked_for(whitening, count):
    images = smooth_images().astype(np.float32)
    network = Airbench(width=4, whitening=whitening)
    network.whiten(images.transpose(0, 3, 1, 2))
    filters = network.whitening.weight.numpy()
    assert filters.shape == (count, 3, 2, 2)
    np.testing.assert_array_equal(filters, whitening_filters(images, components=count // 2))
    np.testing.assert_array_equal(filters[:8], whitening_filters(images)[:8])


def test_all_twelve_components_span_the_patches():
    filters = whitening_filters(smooth_images().astype(np.float32), components=12)
    assert np.linalg.matrix_rank(filters[:12].reshape(12, 12)) == 12


def test_constant_images_whiten_to_finite_filters():
    assert np.isfinite(whitening_filters(np.ones((2, 8, 8, 3), np.float32))).all()


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
def test_whiten_takes_images_in_the_networks_format_and_the_filters_do_not_learn(data_format):
    images = smooth_images().astype(np.float32)
    network = Airbench(width=4, data_format=data_format)
    network.whiten(images if data_format == "NHWC" else images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(network.whitening.weight.numpy(), whitening_filters(images))
    assert network.whitening.weight.stop_gradient and not network.whitening.bias.stop_gradient


@pytest.mark.parametrize(("activation", "kind"), [("relu", paddle.nn.ReLU), ("gelu", paddle.nn.GELU)])
def test_all_seven_activations_are_the_one_that_was_asked_for(activation, kind):
    network = Airbench(width=4, activation=activation)
    found = [type(layer) for name, layer in network.named_sublayers() if name.endswith("activation")]
    assert found == [kind] * 7


def test_the_eleven_layers_have_a_shortcut_around_the_last_two_convolutions_of_each_group():
    paddle.seed(0)
    group = Airbench(width=4, layers=11).group1
    x = paddle.rand([2, 16, 8, 8])
    pooled = group.pooled(x)
    inner = group.third_norm(group.third(group.inner(pooled)))
    np.testing.assert_allclose(group(x).numpy(), paddle.nn.functional.relu(pooled + inner).numpy(), rtol=1e-6)


def test_convolutions_begin_as_the_identity_on_their_first_channels():
    paddle.seed(0)
    convolution = Airbench(width=4).group2.second
    x = paddle.randn([1, 16, 5, 5])
    np.testing.assert_allclose(convolution(x).numpy(), x.numpy(), rtol=1e-6)
