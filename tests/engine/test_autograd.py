"""The engine as a step of Paddle's automatic differentiation: what it does, and what it says that it cannot do."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap

import numpy as np
import paddle
import pytest
from engine_comparison import assert_agree, both
from paddle import nn

from cifar_hapi.engine import onednn, restore
from cifar_hapi.engine.execution import accelerate

pytestmark = pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")
X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("float32")


def network(fast=True, channels=4):
    paddle.seed(0)
    layers = nn.Sequential(nn.Conv2D(3, channels, 3), nn.Conv2D(channels, channels, 3))
    assert not fast or accelerate(layers, "float32")
    return layers


def image():
    return paddle.to_tensor(X, stop_gradient=False)


def replaces_weights(layers, x):
    layers[1].weight = layers.create_parameter(layers[1].weight.shape)


def overwrites_the_input(layers, x):
    with paddle.no_grad():
        x.set_value(paddle.full_like(x, float("nan")))


def runs_again(layers, x):
    layers(x * 3)


def turns_into_evaluation(layers, x):
    layers.eval()
    with paddle.no_grad():
        layers(x)


@pytest.mark.parametrize("between", [replaces_weights, overwrites_the_input, runs_again, turns_into_evaluation])
def test_what_happens_between_forward_and_backward_changes_no_gradient(between):
    def use(layers):
        x, weight = image(), layers[1].weight
        output = layers(x)
        between(layers, x)
        scribble = [paddle.full([32 * 32 * 9], float("nan")) for _ in range(30)]  # takes any memory that was freed
        (output * paddle.to_tensor(np.arange(output.size, dtype="float32").reshape(output.shape))).sum().backward()
        assert len(scribble) == 30
        return {"x": x.grad.numpy(), "first": layers[0].weight.grad.numpy(), "second": weight.grad.numpy()}

    expected = use_without_anything_between()
    native, fast = both(network(False, 32), use)
    assert_agree(fast, expected, 1e-4)
    if between is not overwrites_the_input:  # Paddle's convolution reads it again
        assert_agree(fast, native, 1e-4)


def use_without_anything_between():
    layers, x = network(False, 32), image()
    output = layers(x)
    (output * paddle.to_tensor(np.arange(output.size, dtype="float32").reshape(output.shape))).sum().backward()
    return {"x": x.grad.numpy(), "first": layers[0].weight.grad.numpy(), "second": layers[1].weight.grad.numpy()}


def test_another_type_between_forward_and_backward_is_refused():
    layers, x = network(), image()
    output = layers(x)
    layers.to(dtype="float64")
    with pytest.raises(OSError, match="parameters were given other memory, or another type"):
        output.sum().backward()


def test_gradients_that_come_as_views():
    def use(layers):
        x = image()
        weights = paddle.to_tensor(np.random.default_rng(1).standard_normal((4, 4, 2, 4)).astype("float32"))
        (layers(x).transpose([3, 2, 0, 1]) * weights).sum().backward()
        return {"x": x.grad.numpy(), "weight": layers[0].weight.grad.numpy()}

    native, fast = both(network(False), use)
    assert_agree(fast, native, 1e-4)


def test_gradients_that_two_losses_add_up_to():
    def use(layers):
        x = image()
        output = layers(x)
        (output.sum() + (output**2).mean()).backward()
        return {"x": x.grad.numpy(), "weight": layers[0].weight.grad.numpy()}

    native, fast = both(network(False), use)
    assert_agree(fast, native, 1e-4)


def test_paddle_grad_of_all_that_has_a_gradient():
    def use(layers):
        x = image()
        found = paddle.grad((layers(x) ** 2).sum(), [x, *layers.parameters()])
        return {str(place): each.numpy() for place, each in enumerate(found)}

    native, fast = both(network(False), use)
    assert_agree(fast, native, 1e-4)


def test_paddle_grad_of_the_image_needs_frozen_parameters():
    layers, x = network(), image()
    with pytest.raises(ValueError, match="should return None at 1 position"):
        paddle.grad(layers(x).sum(), x)
    for parameter in layers.parameters():
        parameter.stop_gradient = True
    (found,) = paddle.grad((layers(x) ** 2).sum(), x)
    restore(layers)
    (expected,) = paddle.grad((layers(x) ** 2).sum(), x)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)


def test_gradients_of_gradients_are_refused():
    layers, x = network(), image()
    with pytest.raises(OSError, match=r"no gradients of gradients \(create_graph\); cifar_hapi.engine.restore"):
        paddle.grad((layers(x) ** 2).sum(), [x, *layers.parameters()], create_graph=True)
    restore(layers)
    first, *_ = paddle.grad((layers(x) ** 2).sum(), [x, *layers.parameters()], create_graph=True)
    (first**2).sum().backward()
    assert layers[0].weight.grad is not None


SECOND_BACKWARD_PASS = """
    import warnings
    warnings.simplefilter("ignore")
    import paddle
    from cifar_hapi.engine.execution import accelerate
    conv = paddle.nn.Conv2D(3, 4, 3)
    accelerate(conv, "float32")
    loss = conv(paddle.ones([1, 3, 8, 8])).sum()
    loss.backward(retain_graph=True)
    try:
        loss.backward()
    except OSError as error:
        assert "a forward pass on the oneDNN engine has one backward pass" in str(error)
        print("refused")
"""


def test_a_second_backward_pass_is_refused_and_no_crash():
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SECOND_BACKWARD_PASS)], capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "refused", found.stderr


def test_paddle_jit_is_refused_until_the_network_is_restored(tmp_path):
    layers = network()
    layers.eval()
    spec = [paddle.static.InputSpec([None, 3, 8, 8])]
    expected = layers(paddle.to_tensor(X)).numpy()
    for jit in (paddle.jit.to_static, lambda net: paddle.jit.save(net, str(tmp_path / "network"), input_spec=spec)):
        with pytest.raises(AttributeError, match=r"for paddle\.jit, call cifar_hapi\.engine\.restore\(network\) first"):
            jit(layers)
    restore(layers)
    paddle.jit.save(layers, str(tmp_path / "network"), input_spec=spec)
    loaded = paddle.jit.load(str(tmp_path / "network"))
    np.testing.assert_allclose(loaded(paddle.to_tensor(X)).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_network_may_be_accelerated_again_as_a_part_of_another():
    inner = network()
    outer = nn.Sequential(inner, nn.ReLU())
    expected = copy.deepcopy(outer)
    restore(expected)
    assert accelerate(outer, "float32") and "forward" not in inner.__dict__
    np.testing.assert_allclose(
        outer(paddle.to_tensor(X)).numpy(), expected(paddle.to_tensor(X)).numpy(), rtol=1e-4, atol=1e-5
    )
