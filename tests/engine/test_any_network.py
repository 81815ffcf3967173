"""The engine runs what it can of networks that it was not made for, and the rest stays Paddle's."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from engine_comparison import assert_agree, both, outcome
from paddle import nn

from cifar_hapi import RecipeError
from cifar_hapi import accelerate as accelerate_any
from cifar_hapi.engine import onednn
from cifar_hapi.engine.execution import accelerate, accelerated, restore

pytestmark = pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")
X = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype("float32")


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("mobilenet_v2", {"scale": 0.25}),
        ("vgg11", {"batch_norm": True, "with_pool": False}),
        ("shufflenet_v2_x0_25", {}),
    ],
)
def test_networks_of_paddle_vision(name, options, mode):
    paddle.seed(1)
    if name == "vgg11":
        network = paddle.vision.models.vgg11(**options).features
    else:
        network = getattr(paddle.vision.models, name)(num_classes=10, **options)
    getattr(network, mode)()
    x = paddle.to_tensor(np.random.default_rng(1).standard_normal((4, 3, 64, 64)).astype("float32"))
    for layer in network.sublayers():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    with paddle.no_grad():
        native, fast = both(network, lambda layer: {"output": layer(x).numpy()})
    assert_agree(fast, native, 1e-2 if mode == "train" else 1e-3)


def test_resnet18_of_paddle_vision_trains_as_natively():
    paddle.seed(1)
    network = paddle.vision.models.resnet18(num_classes=10)
    x = np.random.default_rng(3).standard_normal((4, 3, 64, 64)).astype("float32")
    native, fast = both(network, lambda layer: outcome(layer, x, input_gradient=False))
    weights = [name for name in native if name.startswith("gradient")]
    flat = [np.concatenate([each[name].ravel() for name in weights]) for each in (native, fast)]
    assert np.linalg.norm(flat[0] - flat[1]) < 0.05 * np.linalg.norm(flat[0])
    assert_agree({"output": fast["output"]}, {"output": native["output"]}, 1e-2)


class Odd(nn.Layer):
    """What the engine doesn't know, between what it knows."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU())
        self.group = nn.GroupNorm(2, 8)
        self.same = nn.Conv2D(8, 8, 3, padding="SAME")
        self.mirrored = nn.Conv2D(8, 8, 3, padding=1, padding_mode="reflect")
        self.last = nn.Conv2D(8, 4, 3)
        self.dropout = nn.Dropout2D(0.5)

    def forward(self, x):
        x = nn.functional.silu(self.group(self.first(x)))
        x = self.mirrored(self.same(x)) * 0.5
        return self.dropout(self.last(x)).mean([2, 3])


def test_unknown_layers_run_natively_and_known_ones_around_them_do_not():
    paddle.seed(2)
    network = Odd()
    network.eval()
    fast = copy.deepcopy(network)
    assert accelerate(fast, "float32")
    assert [name for name, layer in fast.named_sublayers() if accelerated(layer)] == ["first", "last"]
    assert_agree(outcome(fast, X), outcome(network, X), 1e-4)


class Branching(nn.Layer):
    """Another way in training than in evaluation, and a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.twice = nn.Conv2D(3, 4, 3, padding=1), nn.Conv2D(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.twice(self.twice(self.conv(x)))
        return x if self.training else x + x


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_control_flow_on_the_mode_and_layers_that_are_called_twice(mode):
    paddle.seed(3)
    network = Branching()
    getattr(network, mode)()
    native, fast = both(network, lambda layer: outcome(layer, X))
    assert_agree(fast, native, 1e-4)


def test_the_way_is_looked_at_again_when_modes_change():
    paddle.seed(3)
    network = nn.Sequential(nn.Conv2D(3, 4, 3, bias_attr=False), nn.BatchNorm2D(4))
    fast = copy.deepcopy(network)
    accelerate(fast, "float32")
    for mode in ("train", "eval", "train", "eval"):
        getattr(network, mode)(), getattr(fast, mode)()
        assert_agree(outcome(fast, X), outcome(network, X), 1e-3)


def test_two_inputs_go_to_the_networks_own_forward():
    class Two(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(3, 4, 3)

        def forward(self, x, y):
            return self.conv(x) * y

    network = Two()
    y = paddle.full([1], 2.0)
    native, fast = both(network, lambda layer: {"output": layer(paddle.to_tensor(X), y).numpy()})
    assert_agree(fast, native, 1e-4)


def test_hooks_see_what_they_would_see():
    network = nn.Sequential(nn.Conv2D(3, 4, 3, bias_attr=False), nn.BatchNorm2D(4), nn.ReLU())

    def use(layer):
        seen = []
        hook = layer[1].register_forward_post_hook(lambda _, inputs, output: seen.append(output.numpy()))
        layer(paddle.to_tensor(X))
        hook.remove()
        layer(paddle.to_tensor(X))
        assert len(seen) == 1
        return {"seen": seen[0]}

    native, fast = both(network, use)
    assert_agree(fast, native, 1e-4)


def test_parameters_may_be_replaced_and_shared():
    paddle.seed(4)
    network = nn.Sequential(nn.Conv2D(4, 4, 3, padding=1), nn.Conv2D(4, 4, 3, padding=1))
    x = np.random.default_rng(1).standard_normal((2, 4, 8, 8)).astype("float32")

    def use(layer):
        first = outcome(layer, x)["output"]
        layer[1].weight = layer[0].weight
        layer[1].bias = nn.Layer().create_parameter([4], default_initializer=nn.initializer.Constant(0.5))
        layer.clear_gradients()
        return {"first": first} | outcome(layer, x)

    native, fast = both(network, use)
    assert_agree(fast, native, 1e-4)


def test_another_type_and_back():
    conv = nn.Conv2D(3, 4, 3)
    expected = conv(paddle.to_tensor(X)).numpy()
    accelerate(conv, "float32")
    conv(paddle.to_tensor(X))
    conv.to(dtype="float64")
    np.testing.assert_allclose(conv(paddle.to_tensor(X.astype("float64"))).numpy(), expected, atol=1e-4)
    conv.to(dtype="float32")
    np.testing.assert_allclose(conv(paddle.to_tensor(X)).numpy(), expected, atol=1e-4)


def test_a_deep_copy_is_another_network():
    paddle.seed(5)
    network = nn.Sequential(nn.Conv2D(3, 4, 3, bias_attr=False), nn.BatchNorm2D(4))
    accelerate(network, "float32")
    network(paddle.to_tensor(X))
    twin = copy.deepcopy(network)
    assert accelerated(twin)
    before = network[0].weight.numpy()
    twin[0].weight.set_value(np.zeros_like(before))
    assert np.abs(twin(paddle.to_tensor(X)).numpy()).max() == pytest.approx(0, abs=1e-5)
    assert np.abs(network(paddle.to_tensor(X)).numpy()).max() > 0.1
    assert list(network.state_dict()) == list(twin.state_dict())


def test_restore_gives_the_network_back():
    network = Odd()
    names = list(network.state_dict())
    accelerate(network, "float32")
    assert list(network.state_dict()) == names
    restore(network)
    assert not accelerated(network) and "forward" not in network.first.__dict__


def test_the_public_way_says_what_it_chose():
    choice = accelerate_any(nn.Sequential(nn.Conv2D(3, 4, 3)))
    assert (choice.engine, choice.precision) == ("onednn", "float32") and "oneDNN 3" in choice.why
    assert accelerate_any(nn.Linear(2, 2)).engine == "native"


def test_gradients_accumulate():
    paddle.seed(6)
    network = nn.Sequential(nn.Conv2D(3, 4, 3, bias_attr=False), nn.BatchNorm2D(4), nn.ReLU())

    def use(layer):
        outcome(layer, X)
        return outcome(layer, X[::-1].copy())

    native, fast = both(network, use)
    assert_agree(fast, native, 1e-3)


class Switched(nn.Layer):
    """A block that an attribute of its own turns off, as stochastic depth does."""

    def __init__(self):
        super().__init__()
        self.conv, self.on = nn.Conv2D(4, 4, 3, padding=1), True

    def forward(self, x):
        return x + self.conv(x) if self.on else x


def test_the_way_is_looked_at_again_when_an_attribute_changes(monkeypatch):
    monkeypatch.setattr("cifar_hapi.engine.execution._MOST_TRACES", 2)
    paddle.seed(6)
    network = nn.Sequential(nn.Conv2D(3, 4, 3), Switched(), Switched())
    fast = copy.deepcopy(network)
    assert accelerate(fast, "float32")
    for switches in ((True, True), (False, True), (True, False), (False, False), (True, True)):
        for layers in (network, fast):
            layers[1].on, layers[2].on = switches
        assert_agree({"": fast(paddle.to_tensor(X)).numpy()}, {"": network(paddle.to_tensor(X)).numpy()}, 1e-4)


@pytest.mark.parametrize("precision", ["bf16", "int8", ""])
def test_an_unknown_precision_is_refused(precision):
    with pytest.raises(RecipeError, match="expected 'float32' or 'bfloat16'"):
        accelerate_any(nn.Sequential(nn.Conv2D(3, 4, 3)), precision)
