"""Paddle's batch norm computes what the formulas say, but for one value a channel."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from cifar_hapi.batch_norm import formulas

LAYERS = {  # by the number of axes: the layer, with channels first and last
    2: (nn.BatchNorm1D, "NCL", None),
    3: (nn.BatchNorm1D, "NCL", "NLC"),
    4: (nn.BatchNorm2D, "NCHW", "NHWC"),
    5: (nn.BatchNorm3D, "NCDHW", "NDHWC"),
}


@st.composite
def cases(draw):
    """A layer with statistics and parameters of its own, an input of two values a channel or more, gy, its axis."""
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    shape[0] = max(shape[0], 2)
    kind, first, last = LAYERS[len(shape)]
    data_format = draw(st.sampled_from([first, last])) if last else first
    axis = data_format.index("C")
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    momentum, epsilon = draw(st.sampled_from([0.0, 0.6, 0.9])), draw(st.sampled_from([1e-5, 0.1]))
    layer = kind(shape[axis], momentum, epsilon, data_format=data_format)
    for name, values in random_state(rng, shape[axis]).items():
        layer.state_dict()[name].set_value(values.astype("float32"))
    return layer, rng.normal(draw(st.sampled_from([0, 3])), 2, shape), rng.standard_normal(shape), axis


def random_state(rng, channels):
    return {
        "weight": rng.normal(1, 1, channels),
        "bias": rng.standard_normal(channels),
        "_mean": rng.standard_normal(channels),
        "_variance": rng.uniform(0.1, 3, channels),
    }


def in_paddle(layer, x, gy):
    """y, and the gradients of x, scale and shift."""
    source = paddle.to_tensor(x.astype("float32"), stop_gradient=False)
    y = layer(source)
    (y * paddle.to_tensor(gy.astype("float32"))).sum().backward()
    return y.numpy(), (source.grad.numpy(), layer.weight.grad.numpy(), layer.bias.grad.numpy())


def state(layer):
    return {name: tensor.numpy().astype("float64") for name, tensor in layer.state_dict().items()}


def assert_close(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-3 * max(1, np.abs(theirs).max()))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_training_is_as_the_formulas_say(case):
    layer, x, gy, axis = case
    x = x.astype("float32").astype("float64")
    before, epsilon = state(layer), layer._epsilon
    y, gradients = in_paddle(layer, x, gy)
    assert_close([y], [formulas.training_forward(x, before["weight"], before["bias"], epsilon, axis)])
    variance = formulas.batch_statistics(x, axis)[1]
    if (variance > 1e-3).all():  # else float32 leaves nothing to compare
        assert_close(gradients, formulas.training_backward(gy, x, before["weight"], epsilon, axis))
    after = state(layer)
    for name, batch in zip(("_mean", "_variance"), formulas.batch_statistics(x, axis), strict=True):
        np.testing.assert_allclose(
            after[name], formulas.updated(before[name], batch, layer._momentum), rtol=1e-4, atol=1e-5
        )


@settings(max_examples=60, deadline=None)
@given(cases(), st.booleans())
def test_evaluation_and_a_frozen_layer_are_as_the_formulas_say(case, frozen):
    layer, x, gy, axis = case
    if frozen:
        layer._use_global_stats = True
    else:
        layer.eval()
    before, epsilon = state(layer), layer._epsilon
    y, gradients = in_paddle(layer, x, gy)
    mean, variance = before["_mean"], before["_variance"]
    expected = formulas.evaluation_forward(x, mean, variance, before["weight"], before["bias"], epsilon, axis)
    assert_close([y], [expected])
    assert_close(gradients, formulas.evaluation_backward(gy, x, mean, variance, before["weight"], epsilon, axis))
    assert all(np.array_equal(state(layer)[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1D, (1, 3)),
        (nn.BatchNorm1D, (1, 3, 1)),
        (nn.BatchNorm2D, (1, 3, 1, 1)),
        (nn.BatchNorm3D, (1, 3, 1, 1, 1)),
    ],
)
def test_where_paddle_departs_one_value_a_channel_in_training_comes_back_unchanged(layer, shape):
    norm, rng = layer(3), np.random.default_rng(0)
    for name, values in random_state(rng, 3).items():
        norm.state_dict()[name].set_value(values.astype("float32"))
    x, gy, before = rng.standard_normal(shape).astype("float32"), rng.standard_normal(shape), state(norm)
    y, (gx, g_scale, g_shift) = in_paddle(norm, x, gy)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_allclose(gx, gy, rtol=1e-6)
    assert not g_scale.any() and not g_shift.any()
    assert all(np.array_equal(state(norm)[name], before[name]) for name in before)
    by_formula = formulas.training_forward(x.astype("float64"), before["weight"], before["bias"])
    np.testing.assert_allclose(by_formula.ravel(), before["bias"])


def test_where_paddle_departs_a_shift_beside_a_scale_that_does_not_learn_has_no_gradient():
    norm, rng = nn.BatchNorm2D(3), np.random.default_rng(0)
    norm.weight.stop_gradient = True
    x = paddle.to_tensor(rng.standard_normal((4, 3, 2, 2)).astype("float32"), stop_gradient=False)
    norm(x).sum().backward()
    assert norm.bias.grad is None or not norm.bias.grad.numpy().any()


def test_where_paddle_departs_evaluation_without_global_statistics_has_gradients_of_another_function():
    norm, rng = nn.BatchNorm2D(3, use_global_stats=False), np.random.default_rng(0)
    for name, values in random_state(rng, 3).items():
        norm.state_dict()[name].set_value(values.astype("float32"))
    norm.eval()
    x, gy, before = rng.standard_normal((4, 3, 2, 2)), rng.standard_normal((4, 3, 2, 2)), state(norm)
    y, (gx, *_) = in_paddle(norm, x, gy)
    assert_close([y], [formulas.training_forward(x, before["weight"], before["bias"])])
    after = state(norm)
    np.testing.assert_allclose(after["_mean"], formulas.updated(before["_mean"], x.mean((0, 2, 3))), rtol=1e-4)
    by_running = formulas.evaluation_backward(gy, x, after["_mean"], after["_variance"], before["weight"])
    assert_close([gx], [by_running.x])


def test_the_gradients_are_those_of_the_forward_pass():
    rng = np.random.default_rng(0)
    x, gy, values = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 3, 2)), random_state(rng, 3)
    scale, shift = values["weight"], values["bias"]

    def loss(x, scale, shift):
        return (formulas.training_forward(x, scale, shift) * gy).sum()

    found = formulas.training_backward(gy, x, scale)
    for place, (gradient, name) in enumerate(zip(found, ("x", "scale", "shift"), strict=True)):
        numeric = np.zeros_like(gradient)
        for index in np.ndindex(gradient.shape):
            for sign in (1, -1):
                moved = [x.copy(), scale.copy(), shift.copy()]
                moved[place][index] += sign * 1e-6
                numeric[index] += sign * loss(*moved) / 2e-6
        np.testing.assert_allclose(gradient, numeric, atol=1e-6, err_msg=name)


def test_pytorchs_convention_in_the_terms_of_paddles():
    running, x = np.array([2.0]), np.array([[1.0], [2.0], [6.0]])
    variance = formulas.batch_statistics(x)[1]
    np.testing.assert_allclose(formulas.unbiased(variance, 3), x.var(0, ddof=1))
    theirs = formulas.pytorch_momentum(0.9)
    np.testing.assert_allclose((1 - theirs) * running + theirs * variance, formulas.updated(running, variance, 0.9))
    with pytest.raises(ValueError, match="count = 1: of fewer than 2 values there is no unbiased variance"):
        formulas.unbiased(variance, 1)
