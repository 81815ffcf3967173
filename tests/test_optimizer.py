"""The optimisers and schedules that a recipe declares do what they say."""

from __future__ import annotations

import re

import numpy as np
import paddle
import pytest

from cifar_hapi.errors import RecipeError
from cifar_hapi.networks import build_network
from cifar_hapi.optimizer import build_optimizer, rate_multiple
from cifar_hapi.recipe import OptimizerRecipe, ParameterGroup, ScheduleRecipe


def network():
    paddle.seed(0)
    return build_network("resnet20", width=4)


def step(net, optimizer, gradient=0.0):
    """One update with every gradient set to `gradient`, in the way of paddle.Model; the change of each parameter."""
    before = {name: tensor.numpy().copy() for name, tensor in net.named_parameters()}
    loss = sum((parameter * gradient).sum() for parameter in net.parameters() if not parameter.stop_gradient)
    loss.backward()
    optimizer.minimize(loss)
    net.clear_gradients()
    return {name: (before[name], tensor.numpy()) for name, tensor in net.named_parameters() if not tensor.stop_gradient}


@pytest.mark.parametrize("name", ["momentum", "adamw"])
@pytest.mark.parametrize("decay_norm", [False, True])
def test_weight_decay_spares_batch_norm_unless_asked(name, decay_norm):
    net = network()
    recipe = OptimizerRecipe(name=name, lr=0.5, weight_decay=0.1, decay_norm=decay_norm)
    changes = step(net, build_optimizer(recipe, ScheduleRecipe(), net, 10, 1))
    for parameter, (before, after) in changes.items():
        factor = 1.0 if ".norm." in parameter and not decay_norm else 0.95
        np.testing.assert_allclose(after, factor * before, rtol=1e-5, atol=1e-7, err_msg=parameter)


def test_adam_adds_the_decay_to_the_gradient_but_for_batch_norm():
    net = network()
    optimizer = build_optimizer(OptimizerRecipe(name="adam", lr=0.01, weight_decay=0.1), ScheduleRecipe(), net, 10, 1)
    for parameter, (before, after) in step(net, optimizer).items():
        expected = before if ".norm." in parameter else before - 0.01 * np.sign(before)
        np.testing.assert_allclose(after, expected, atol=1e-4, err_msg=parameter)


@pytest.mark.parametrize(("nesterov", "second"), [(False, 1.9), (True, 2.71)])
def test_momentum_is_that_of_sutskever_et_al(nesterov, second):
    net = network()
    optimizer = build_optimizer(OptimizerRecipe(lr=0.1, momentum=0.9, nesterov=nesterov), ScheduleRecipe(), net, 10, 1)
    step(net, optimizer, 1.0)
    before, after = step(net, optimizer, 1.0)["head.weight"]
    np.testing.assert_allclose(before - after, 0.1 * second, rtol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, {0: 1, 99: 1}),
        ({"name": "cosine"}, {0: 1, 50: 0.5, 100: 0}),
        ({"name": "linear", "final": 0.2, "warmup_epochs": 2.0}, {9: 10 / 21, 20: 1, 60: 0.6, 100: 0.2}),
        ({"name": "cosine", "final": 0.1}, {0: 1, 50: 0.55, 100: 0.1}),
        ({"name": "cosine", "warmup_epochs": 2.0}, {0: 1 / 21, 9: 10 / 21, 20: 1, 60: 0.5, 100: 0}),
        ({"name": "one_cycle", "peak": 0.5}, {0: 0.04 + 0.96 * 0.02, 49: 1, 74: 0.5, 99: 0}),
        ({"name": "one_cycle", "peak": 0.2, "final": 0.5}, {19: 1, 59: 0.75, 99: 0.5}),
        ({"name": "piecewise", "milestones": (3.0, 7.5)}, {0: 1, 29: 1, 30: 0.1, 74: 0.1, 75: 0.01}),
        (
            {"name": "piecewise", "milestones": (5.0,), "gamma": 0.5, "warmup_epochs": 0.5},
            {0: 1 / 6, 5: 1, 50: 0.5},
        ),
    ],
)
def test_schedules_move_by_step(schedule, expected):
    multiple = rate_multiple(ScheduleRecipe(**schedule), steps_per_epoch=10, epochs=10)
    assert {at: multiple(at) for at in expected} == pytest.approx(expected)


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw", "muon"])
def test_a_group_has_a_rate_of_its_own(name):
    net = network()
    groups = (ParameterGroup(parameters="*.bias", lr=0.04), ParameterGroup(parameters="head.*", lr=0.02))
    recipe = OptimizerRecipe(name=name, lr=0.01, momentum=0.0, sgd_momentum=0.0, groups=groups)
    changes = step(net, build_optimizer(recipe, ScheduleRecipe(), net, 10, 1), 1.0)
    for parameter, (before, after) in changes.items():
        if name == "muon" and before.ndim == 4:
            continue  # its step has a direction of its own
        rate = 0.02 if parameter.startswith("head.") else 0.04 if parameter.endswith(".bias") else 0.01
        np.testing.assert_allclose(before - after, rate, rtol=1e-3, err_msg=parameter)


def test_a_group_has_a_decay_of_its_own_batch_norm_too():
    net = network()
    groups = (ParameterGroup(parameters="*.norm.weight", weight_decay=0.2), ParameterGroup(parameters="head.*", lr=1.0))
    recipe = OptimizerRecipe(lr=0.5, weight_decay=0.1, groups=groups)
    for parameter, (before, after) in step(net, build_optimizer(recipe, ScheduleRecipe(), net, 10, 1)).items():
        decayed = {"norm.weight": 0.9, "norm.bias": 1.0}.get(".".join(parameter.split(".")[-2:]), 0.95)
        expected = 0.9 if parameter.startswith("head.") else decayed
        np.testing.assert_allclose(after, expected * before, rtol=1e-5, atol=1e-7, err_msg=parameter)


@pytest.mark.parametrize(
    ("recipe", "group", "said"),
    [
        ({}, {"parameters": "haed.*", "lr": 1.0}, "no parameter that learns is called 'haed.*'"),
        ({}, {"parameters": "*._variance", "lr": 1.0}, "no parameter that learns is called '*._variance'"),
        (
            {"name": "adamw", "weight_decay": 0.1},
            {"parameters": "head.*", "weight_decay": 0.2},
            "adamw has one weight_decay",
        ),
    ],
)
def test_a_group_that_cannot_be_is_refused(recipe, group, said):
    net = network()
    declared = OptimizerRecipe(groups=(ParameterGroup(**group),), **recipe)
    with pytest.raises(RecipeError, match=re.escape(said)):
        build_optimizer(declared, ScheduleRecipe(), net, 10, 1)


def test_the_optimiser_follows_its_schedule():
    net = network()
    optimizer = build_optimizer(OptimizerRecipe(lr=2.0), ScheduleRecipe(name="cosine"), net, 1, 2)
    rates = [optimizer.get_lr()]
    optimizer._learning_rate.step()
    assert [*rates, optimizer.get_lr()] == pytest.approx([2.0, 1.0])


def test_running_statistics_are_not_optimised():
    net = network()
    optimizer = build_optimizer(OptimizerRecipe(weight_decay=0.1, decay_norm=True), ScheduleRecipe(), net, 1, 1)
    step(net, optimizer)
    assert all(np.all(tensor.numpy() == 1) for name, tensor in net.named_parameters() if name.endswith("_variance"))
