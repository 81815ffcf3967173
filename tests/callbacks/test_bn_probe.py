"""What batch-norm layers see in a batch: the right numbers, whatever runs the network, and no trace in the training."""

from __future__ import annotations

import random

import numpy as np
import paddle
import pytest
from paddle import nn

from callbacks.bn_probe import probe
from callbacks.paddle_model import norm_layers
from cifar_hapi.engine import onednn
from cifar_hapi.engine.execution import accelerate, accelerated

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((6, 3, 8, 8)).astype("float32")


def small_network():
    paddle.seed(1)
    return nn.Sequential(
        nn.Conv2D(3, 4, 3, bias_attr=False),
        nn.BatchNorm2D(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2D(4, 5, 3, bias_attr=False),
        nn.BatchNorm2D(5),
    )


def seen(network, batch):
    model = paddle.Model(network)
    return {name: found.numpy() for name, found in probe(model, norm_layers(network), batch).items()}


def expected(x, y, axes):
    return np.stack([x.mean(axes), x.var(axes), (y <= 0).mean(axes)])


@pytest.mark.parametrize("batch", [IMAGES, [IMAGES, np.zeros(6)], [[IMAGES], [np.zeros(6)]], paddle.to_tensor(IMAGES)])
@pytest.mark.parametrize("training", [True, False])
def test_mean_variance_and_cut_share_of_what_layers_see_in_evaluation_mode(batch, training):
    network = small_network()
    network[1]._mean.set_value(RNG.standard_normal(4).astype("float32"))
    network.train() if training else network.eval()
    found = seen(network, batch)
    assert all(layer.training == training for layer in network.sublayers(include_self=True))
    network.eval()
    maps = [paddle.to_tensor(IMAGES)]
    for layer in network:
        maps.append(layer(maps[-1]))
    arrays = [each.numpy() for each in maps]
    assert found.keys() == {"1", "5"}
    for name in found:
        place = int(name)
        np.testing.assert_allclose(found[name], expected(*arrays[place : place + 2], (0, 2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape", "channels"),
    [
        (lambda: nn.BatchNorm1D(3), (5, 3), 1),
        (lambda: nn.BatchNorm1D(3), (5, 3, 7), 1),
        (lambda: nn.BatchNorm1D(3, data_format="NLC"), (5, 7, 3), 2),
        (lambda: nn.BatchNorm2D(3), (5, 3, 4, 2), 1),
        (lambda: nn.BatchNorm2D(3, data_format="NHWC"), (5, 4, 2, 3), 3),
        (lambda: nn.BatchNorm3D(3), (2, 3, 4, 2, 3), 1),
        (lambda: nn.BatchNorm3D(3, data_format="NDHWC"), (2, 4, 2, 3, 3), 4),
        (lambda: nn.BatchNorm(3), (5, 3, 4, 2), 1),
        (lambda: nn.BatchNorm(3, act="relu", data_layout="NHWC"), (5, 4, 2, 3), 3),
        (lambda: nn.BatchNorm2D(3, weight_attr=False, bias_attr=False), (5, 3, 4, 2), 1),
    ],
)
def test_the_axis_of_channels_of_every_kind_of_layer(layer, shape, channels):
    x = (3 + RNG.standard_normal(shape)).astype("float32") * np.moveaxis(
        np.broadcast_to(np.array([1.0, -2.0, 5.0], "float32"), (*np.delete(shape, channels), 3)), -1, channels
    )
    (found,) = seen(layer(), x).values()
    axes = tuple(axis for axis in range(len(shape)) if axis != channels)
    np.testing.assert_allclose(found, expected(x, x, axes), rtol=1e-4)


def test_a_layer_that_is_called_twice_counts_all_its_values_and_one_that_is_not_has_none():
    class Twice(nn.Layer):
        def __init__(self):
            super().__init__()
            self.norm, self.never = nn.BatchNorm1D(2), nn.BatchNorm1D(2)

        def forward(self, x):
            return self.norm(x[:3]), self.norm(x[3:])

    x = RNG.standard_normal((11, 2)).astype("float32")
    found = seen(Twice(), x)
    assert found.keys() == {"norm"}
    np.testing.assert_allclose(found["norm"], expected(x, x, 0), rtol=1e-4, atol=1e-6)


class Careless(nn.Layer):
    """Draws random numbers of all kinds and changes buffers, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2D(3, use_global_stats=False)
        self.register_buffer("calls", paddle.zeros([1]))

    def forward(self, x):
        self.calls.add_(paddle.ones([1]))
        return self.norm(x + paddle.rand([1]) + random.random() + float(np.random.rand()))


def test_statistics_buffers_modes_gradients_and_random_numbers_stay_bit_for_bit():
    network = nn.Sequential(Careless(), small_network())
    network[1][1].eval()  # as a user freezes one layer
    network(paddle.to_tensor(IMAGES)).sum().backward()

    def everything():
        tensors = {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}
        gradients = {
            name: each.grad.numpy().tobytes() for name, each in network.named_parameters() if not each.stop_gradient
        }
        return tensors, gradients, [layer.training for layer in network.sublayers(include_self=True)]

    def draws():
        return random.random(), np.random.rand(), paddle.rand([3]).numpy().tobytes(), paddle.randperm(9).tolist()

    random.seed(3), np.random.seed(3), paddle.seed(3)
    before, following = everything(), draws()
    random.seed(3), np.random.seed(3), paddle.seed(3)
    assert seen(network, IMAGES).keys() == {"0.norm", "1.1", "1.5"}
    assert everything() == before and draws() == following
    assert not any(layer._forward_post_hooks for layer in network.sublayers(include_self=True))


def test_an_error_in_the_network_leaves_no_hook_and_no_mode_behind():
    network = small_network()
    network.train()
    with pytest.raises(Exception, match=r".*"):
        seen(network, IMAGES[:, :2])
    assert all(layer.training for layer in network.sublayers()) and paddle.is_grad_enabled()
    assert not any(layer._forward_post_hooks for layer in network.sublayers())


@pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")
def test_hooks_run_under_the_engine_and_it_goes_on_afterwards():
    network = nn.Sequential(small_network()[:3], nn.Conv2D(4, 5, 3, bias_attr=False), nn.BatchNorm2D(5), nn.ReLU())
    native = seen(network, IMAGES)
    network.eval()
    assert accelerate(network, "float32")
    before = network(paddle.to_tensor(IMAGES)).numpy()
    network.train()
    fast = seen(network, IMAGES)
    assert fast.keys() == native.keys() == {"0.1", "2"}
    for name, found in fast.items():
        # By Paddle's own kernels; not bit for bit, as the engine has told MKL another number of threads.
        np.testing.assert_allclose(found, native[name], rtol=1e-5, atol=1e-6)
    network.eval()
    assert accelerated(network) and network(paddle.to_tensor(IMAGES)).numpy().tobytes() == before.tobytes()
