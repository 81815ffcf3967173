"""A frozen batch norm keeps its statistics through fit, natively and on the engine, and can be thawed."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from toy import IMAGES, batches, toy_model

from cifar_hapi import accelerate, freeze_batch_norm
from cifar_hapi.batch_norm import formulas
from cifar_hapi.errors import RecipeError

STATISTICS = ["1._mean", "1._variance"]
PARAMETERS = ["1.weight", "1.bias"]


def state(model):
    return {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}


def changed(model, before):
    return {name for name, array in state(model).items() if not np.array_equal(array, before[name])}


def trained(stock):
    model = toy_model(stock)
    model.fit(batches(), epochs=2, verbose=0, shuffle=False)
    return model, state(model)


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
@pytest.mark.parametrize("scale_and_shift", [False, True])
def test_statistics_stay_through_fit_and_the_rest_learns(stock, scale_and_shift):
    model, before = trained(stock)
    frozen = freeze_batch_norm(model, scale_and_shift=scale_and_shift)
    model.fit(batches(), batches(), epochs=2, verbose=0)
    kept = {*STATISTICS, *(PARAMETERS if scale_and_shift else [])}
    assert frozen.layers == ("1",)
    stays = "running statistics, scale and shift" if scale_and_shift else "running statistics"
    assert repr(frozen) == f"FrozenBatchNorm({stays} of 1 batch norm stay; undo() ends it)"
    assert changed(model, before) == before.keys() - kept


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_undone_it_trains_as_if_it_had_never_been(stock):
    results = []
    for freezes in (False, True):
        model, before = trained(stock)
        if freezes:
            with freeze_batch_norm(model, scale_and_shift=True):
                model.network.train()
                model.network(paddle.to_tensor(IMAGES))
                assert changed(model, before) == set()
        model.fit(batches(), epochs=2, verbose=0, shuffle=False)
        results.append(state(model))
    assert changed(model, before) >= {*STATISTICS, *PARAMETERS}
    assert all(np.array_equal(results[0][name], results[1][name]) for name in before)


def test_what_was_frozen_before_stays_so_after_undo():
    network = nn.Sequential(nn.BatchNorm1D(3, use_global_stats=True), nn.BatchNorm1D(3))
    network[1].weight.stop_gradient = True
    freeze_batch_norm(network, scale_and_shift=True).undo()
    network(paddle.to_tensor(np.full((4, 3), 5, "float32")))
    assert not network[0]._mean.numpy().any() and network[1]._mean.numpy().any()
    assert network[1].weight.stop_gradient and not network[1].bias.stop_gradient


@pytest.mark.parametrize("norm", [nn.BatchNorm(3), nn.BatchNorm1D(3), nn.BatchNorm1D(3, weight_attr=False)])
def test_each_kind_of_layer_normalises_by_its_running_statistics(norm):
    x = np.random.default_rng(0).standard_normal((5, 3)).astype("float32")
    norm._mean.set_value(np.array([1, 2, 3], "float32"))
    norm._variance.set_value(np.array([4, 5, 6], "float32"))
    freeze_batch_norm(norm)
    norm.train()
    expected = formulas.normalised(x, np.array([1, 2, 3]), np.array([4, 5, 6]))
    np.testing.assert_allclose(norm(paddle.to_tensor(x)).numpy(), expected, rtol=1e-5)


def test_the_engine_notices_both_ways():
    paddle.seed(0)
    network = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.ReLU())
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype("float32"))
    accelerate(network)
    network(x)
    before = network[1]._mean.numpy()
    with freeze_batch_norm(network):
        frozen = network(x).numpy()
        np.testing.assert_array_equal(network[1]._mean.numpy(), before)
    followed = network(x).numpy()
    assert not np.allclose(followed, frozen) and not np.array_equal(network[1]._mean.numpy(), before)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Linear(2, 2), RecipeError, "the network has no batch norm"),
        (nn.Sequential(nn.SyncBatchNorm(2)), RecipeError, "0 is a SyncBatchNorm, which always follows batches"),
        ("resnet20", TypeError, "a str is neither a paddle.Model nor a paddle.nn.Layer"),
    ],
)
def test_what_cannot_be_frozen_is_refused(model, error, message):
    with pytest.raises(error, match=message):
        freeze_batch_norm(model)
