"""Muon against the same rule written down in NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from cifar_hapi.muon import Muon, orthogonal

SHAPES = {"wide": [4, 3, 2, 2], "tall": [30, 2, 2, 2], "matrix": [5, 3], "shift": [6]}


def reference_orthogonal(matrix, iterations):
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(iterations):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def reference_step(weight, gradient, velocity, rate, momentum, decay):
    gradient = gradient + decay * weight
    velocity = momentum * velocity + gradient
    update = gradient + momentum * velocity
    if weight.ndim == 4:
        update = reference_orthogonal(update.reshape(len(update), -1), 3).reshape(update.shape)
        weight = weight * np.sqrt(len(weight)) / np.linalg.norm(weight)
    return weight - rate * update, velocity


def parameters(seed=0):
    paddle.seed(seed)
    made = []
    for shape in SHAPES.values():
        made.append(paddle.create_parameter(shape, "float32", default_initializer=paddle.nn.initializer.Normal()))
    return made


def give_gradients(all_parameters, seed):
    gradients = [np.random.default_rng([seed, each]).standard_normal(p.shape) for each, p in enumerate(all_parameters)]
    loss = sum(
        (p * paddle.to_tensor(g.astype("float32"))).sum() for p, g in zip(all_parameters, gradients, strict=True)
    )
    loss.backward()
    return gradients


def test_three_steps_are_those_of_the_reference():
    made = parameters()
    factor, decay = 0.5, 0.01
    made[2].optimize_attr["learning_rate"] = factor
    made[2].regularizer = paddle.regularizer.L2Decay(decay)
    optimizer = Muon(0.1, momentum=0.6, sgd_momentum=0.9, parameters=made)
    weights = [each.numpy().astype("float64") for each in made]
    velocities = [np.zeros(each.shape) for each in weights]
    for step in range(3):
        gradients = give_gradients(made, step)
        optimizer.step()
        optimizer.clear_grad()
        for place, gradient in enumerate(gradients):
            momentum = 0.6 if weights[place].ndim == 4 else 0.9
            rate = 0.1 * (factor if place == 2 else 1)
            weights[place], velocities[place] = reference_step(
                weights[place], gradient, velocities[place], rate, momentum, decay if place == 2 else 0.0
            )
    for parameter, expected in zip(made, weights, strict=True):
        np.testing.assert_allclose(parameter.numpy(), expected, rtol=2e-4, atol=2e-5)


def test_groups_of_parameters_have_rates_and_momenta_of_their_own():
    """Paddle's own way to say what the recipes say by attributes."""
    found = {}
    for grouped in (True, False):
        made = parameters()
        for place, one in enumerate(made):
            one.optimize_attr["learning_rate"] = 0.5 if place >= 2 and not grouped else 1.0
        groups = [
            {"params": made[:2], "momentum": 0.3},
            {"params": made[2:], "learning_rate": 0.5, "sgd_momentum": 0.7},
        ]
        options = {"parameters": groups} if grouped else {"parameters": made, "momentum": 0.3, "sgd_momentum": 0.7}
        optimizer = Muon(0.1, **options)
        for step in range(2):
            give_gradients(made, step)
            optimizer.step()
            optimizer.clear_grad()
        found[grouped] = [one.numpy() for one in made]
    for one, other in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_filters_and_gradients_of_zeros_stay_finite():
    made = parameters()
    for one in made:
        one.set_value(paddle.zeros_like(one))
    sum((one * 0.0).sum() for one in made).backward()
    Muon(0.1, parameters=made).step()
    assert all((one.numpy() == 0).all() for one in made)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6), (1, 5)])
def test_singular_values_come_near_1_and_the_singular_vectors_stay(shape):
    matrix = np.random.default_rng(0).standard_normal(shape).astype("float32")
    found = orthogonal(paddle.to_tensor(matrix), iterations=5).numpy()
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    values = left.T @ found @ right.T
    assert np.abs(values - np.diag(np.diag(values))).max() < 1e-3
    assert np.diag(values).min() > 0.6 and np.diag(values).max() < 1.3


def test_a_matrix_of_zeros_stays_one():
    assert not orthogonal(paddle.zeros([3, 4])).numpy().any()
