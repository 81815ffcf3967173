"""What a network does is looked at without leaving a mark, and looked at again when the network has changed."""

from __future__ import annotations

import random
import threading

import numpy as np
import paddle
import pytest
from engine_comparison import assert_agree, both, outcome
from paddle import nn

from cifar_hapi.engine import onednn
from cifar_hapi.engine.execution import accelerate, accelerated
from cifar_hapi.engine.side_effects import SideEffect, undone

pytestmark = pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")
X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("float32")


def used(network):
    """What three passes leave behind."""
    outputs = [network(paddle.to_tensor(X)).numpy() for _ in range(3)]
    return {str(place): each for place, each in enumerate(outputs)}


class Peculiar(nn.Layer):
    """Two convolutions, and something of its own between them."""

    def __init__(self):
        super().__init__()
        paddle.seed(0)
        self.first, self.second = nn.Conv2D(3, 3, 3, padding=1), nn.Conv2D(3, 3, 3, padding=1)
        self.calls, self.kept, self.seen = 0, None, []
        self.register_buffer("count", paddle.zeros([1]))

    def forward(self, x):
        return self.second(self.between(self.first(x)))

    def between(self, x):
        return x


class Counts(Peculiar):
    def between(self, x):
        self.calls += 1
        return x


class Keeps(Peculiar):
    def between(self, x):
        self.kept = x
        return x


class Collects(Peculiar):
    def between(self, x):
        self.seen.append(x)
        return x


class CountsInABuffer(Peculiar):
    def between(self, x):
        self.count.add_(paddle.ones([1]))
        return x


class SkipsByPython(Peculiar):
    def between(self, x):
        return x + x if random.random() < 0.5 else x


class SkipsByNumPy(Peculiar):
    def between(self, x):
        return x + x if np.random.rand() < 0.5 else x


class SkipsByPaddle(Peculiar):
    def between(self, x):
        return x + x if paddle.rand([1]).item() < 0.5 else x


@pytest.mark.parametrize(
    "network", [Counts, Keeps, Collects, CountsInABuffer, SkipsByPython, SkipsByNumPy, SkipsByPaddle]
)
def test_a_forward_pass_with_side_effects_runs_as_it_is_written(network):
    def use(layer):
        random.seed(1)
        np.random.seed(1)
        paddle.seed(1)
        found = used(layer)
        assert all(isinstance(each, paddle.Tensor) for each in [*layer.seen, layer.kept] if each is not None)
        marks = [layer.calls, layer.count.numpy(), len(layer.seen), random.random(), np.random.rand(), paddle.rand([2])]
        return found | {"marks": np.hstack([np.ravel(each) for each in marks])}

    native, fast = both(network(), use)
    assert_agree(fast, native, 1e-5)


def test_looking_at_a_network_leaves_no_mark():
    network = Counts()
    random.seed(1), np.random.seed(1), paddle.seed(1)
    expected = random.random(), np.random.rand(), paddle.rand([2]).tolist()
    random.seed(1), np.random.seed(1), paddle.seed(1)
    assert accelerate(network, "float32")
    assert (random.random(), np.random.rand(), paddle.rand([2]).tolist()) == expected
    assert network.calls == 0 and not accelerated(network.first.__class__(3, 3, 1))


def test_what_is_undone_and_said():
    network = Peculiar()
    before = dict(network.__dict__)
    with pytest.raises(SideEffect), undone(network):
        network.calls, network.new = 5, 1
        network.seen.append(1)
        network.count.set_value(paddle.ones([1]))
        del network.kept
    assert network.__dict__ == before and network.seen == [] and network.count.item() == 0
    with undone(network):
        network(paddle.to_tensor(X))


class FrozenStart(Peculiar):
    def forward(self, x):
        with paddle.no_grad():
            x = self.first(x)
        return self.second(x)


@pytest.mark.parametrize("looked_at_first", ["with gradients", "without"])
def test_a_part_without_gradients_gets_none(looked_at_first):
    network = FrozenStart()
    with paddle.no_grad() if looked_at_first == "without" else paddle.enable_grad():
        assert accelerate(network, "float32")
        network(paddle.to_tensor(X))
    network(paddle.to_tensor(X)).sum().backward()
    assert network.first.weight.grad is None and network.second.weight.grad is not None


class ComputesInVain(Peculiar):
    def forward(self, x):
        x = self.first(x)
        self.second(x)
        return x


def test_what_nobody_reads_gets_no_gradient():
    native, fast = both(ComputesInVain(), lambda layer: outcome(layer, X))
    assert "gradient of second.weight" not in native
    assert_agree(fast, native, 1e-5)


def replaces_a_layer(network):
    paddle.seed(5)
    network.add_sublayer("0", nn.Conv2D(3, 4, 3))


def adds_a_layer(network):
    paddle.seed(5)
    network.add_sublayer("3", nn.Conv2D(4, 2, 3))


def patches_a_layer(network):
    network[2].forward = lambda x: x * 2


def drops_the_bias(network):
    network[0].bias = None


def normalises_weights(network):
    nn.utils.weight_norm(network[0])
    network[0].weight_g.set_value(network[0].weight_g * 2)


def freezes_the_statistics(network):
    network[1]._use_global_stats = True


def never_uses_the_running_statistics(network):
    network[1]._use_global_stats = False


def hooks_a_layer(network):
    network[1].register_forward_post_hook(lambda layer, inputs, output: output * 3)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    "change",
    [
        replaces_a_layer,
        adds_a_layer,
        patches_a_layer,
        drops_the_bias,
        normalises_weights,
        freezes_the_statistics,
        never_uses_the_running_statistics,
        hooks_a_layer,
    ],
)
def test_a_network_may_change_after_it_was_accelerated(change, mode):
    paddle.seed(1)
    network = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.ReLU())

    def use(layer):
        getattr(layer, mode)()
        used(layer)
        change(layer)
        getattr(layer, mode)()
        return used(layer) | outcome(layer, X)

    native, fast = both(network, use)
    assert_agree(fast, native, 1e-3)


def test_weights_may_get_another_shape():
    def use(layer):
        used(layer)
        layer[0].weight = layer.create_parameter([6, 3, 3, 3], default_initializer=nn.initializer.Constant(0.5))
        return outcome(layer, X, input_gradient=False)

    native, fast = both(nn.Sequential(nn.Conv2D(3, 4, 3, bias_attr=False), nn.ReLU()), use)
    assert_agree(fast, native, 1e-5)


def test_another_thread_may_call_a_layer_while_its_network_is_looked_at():
    found = []

    class Interrupted(Peculiar):
        def between(self, x):
            if not isinstance(x, paddle.Tensor):
                thread = threading.Thread(target=lambda: found.append(self.second(paddle.to_tensor(X)).numpy()))
                thread.start()
                thread.join()
            return x

    network = Interrupted()
    assert accelerate(network, "float32") and "forward" in network.__dict__
    np.testing.assert_allclose(found[0], network.second(paddle.to_tensor(X)).numpy(), rtol=1e-5)


def test_a_single_layer_may_change_too():
    def use(layer):
        used(layer)
        nn.utils.weight_norm(layer)
        layer.weight_g.set_value(layer.weight_g * 2)
        return used(layer)

    native, fast = both(nn.Conv2D(3, 4, 3), use)
    assert_agree(fast, native, 1e-5)


def test_pools_that_know_one_data_format_only_keep_it():
    network = nn.Sequential(nn.Conv2D(3, 4, 3, data_format="NHWC"), nn.AdaptiveMaxPool2D(1))
    x = X.transpose(0, 2, 3, 1).copy()
    native, fast = both(network, lambda layer: outcome(layer, x))
    assert_agree(fast, native, 1e-5)
