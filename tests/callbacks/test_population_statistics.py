"""The statistics of all values in all batches, whatever their sizes, and nothing that stays changed."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.paddle_model import norm_layers
from callbacks.population_statistics import pooled, population_statistics

RNG = np.random.default_rng(0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_pooled_groups_have_the_mean_and_variance_of_all_their_values(sizes, channels, seed):
    rng = np.random.default_rng(seed)
    groups = [rng.normal(rng.normal(0, 5), 2, (size, channels)) for size in sizes]
    mean, variance = pooled(sizes, [each.mean(0) for each in groups], [each.var(0) for each in groups])
    np.testing.assert_allclose(mean, np.concatenate(groups).mean(0), atol=1e-12)
    np.testing.assert_allclose(variance, np.concatenate(groups).var(0), rtol=1e-10, atol=1e-12)


def two_norms():
    paddle.seed(0)
    layers = (
        paddle.nn.Conv2D(3, 4, 3),
        paddle.nn.BatchNorm2D(4),
        paddle.nn.ReLU(),
        paddle.nn.Conv2D(4, 2, 1),
        paddle.nn.BatchNorm2D(2),
    )
    return paddle.Model(paddle.nn.Sequential(*layers))


def test_a_later_layer_has_the_statistics_of_what_earlier_ones_give_when_they_normalise_by_the_batch():
    model = two_norms()
    batches = [[RNG.normal(size, 1, (size, 3, 6, 6)).astype("float32")] for size in (2, 5, 3)]
    found = population_statistics(model, batches, norm_layers(model.network))
    model.network.train()
    seen = [model.network[:4](paddle.to_tensor(batch)).numpy().transpose(1, 0, 2, 3) for (batch,) in batches]
    values = np.concatenate([each.reshape(2, -1) for each in seen], axis=1).astype("float64")
    assert (found.images, found.batches) == (10, 3)
    np.testing.assert_allclose(found.statistics["4._mean"], values.mean(1), rtol=1e-5)
    np.testing.assert_allclose(found.statistics["4._variance"], values.var(1), rtol=1e-4)


def test_running_statistics_that_are_not_finite_do_not_matter():
    model, batches = two_norms(), [[RNG.standard_normal((4, 3, 6, 6)).astype("float32")]]
    expected = population_statistics(model, batches, norm_layers(model.network)).statistics
    for norm, value in ((1, np.nan), (4, np.inf)):
        model.network[norm]._mean.set_value(np.full_like(model.network[norm]._mean.numpy(), value))
    found = population_statistics(model, batches, norm_layers(model.network)).statistics
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert np.isnan(model.network[1]._mean.numpy()).all()


def test_a_batch_of_a_single_value_a_channel_is_refused_as_paddle_skips_it():
    model = paddle.Model(paddle.nn.Sequential(paddle.nn.BatchNorm1D(3)))
    batches = [[RNG.standard_normal((size, 3)).astype("float32")] for size in (4, 1)]
    before = {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}
    with pytest.raises(ValueError, match=r"batch 1 has one image, and 0 no variance of it: leave it out \(drop_last\)"):
        population_statistics(model, batches, norm_layers(model.network))
    assert all(np.array_equal(tensor.numpy(), before[name]) for name, tensor in model.network.state_dict().items())


def test_one_image_is_enough_where_it_has_many_values():
    model, images = two_norms(), RNG.standard_normal((1, 3, 6, 6)).astype("float32")
    assert len(population_statistics(model, [[images]], norm_layers(model.network)).statistics) == 4


def test_a_layer_that_no_batch_reaches_has_no_entry():
    class Beside(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.used, self.unused = paddle.nn.BatchNorm1D(3), paddle.nn.BatchNorm1D(3)

        def forward(self, x):
            return self.used(x)

    model = paddle.Model(Beside())
    found = population_statistics(model, [[np.ones((4, 3), "float32")]], norm_layers(model.network))
    assert list(found.statistics) == ["used._mean", "used._variance"]


def test_no_batches_are_an_error():
    with pytest.raises(ValueError, match=r"batches has none \(left; can it be gone through more than once\?\)"):
        population_statistics(two_norms(), [], {})


def test_random_numbers_go_on_as_if_nothing_had_been_drawn():
    def drawing():
        np.random.rand(), paddle.rand([1])
        yield [np.ones((2, 3, 6, 6), "float32")]

    model = two_norms()
    drawn = []
    for drawn_before in (False, True):
        np.random.seed(1), paddle.seed(1)
        if drawn_before:
            population_statistics(model, drawing(), norm_layers(model.network))
        drawn.append((np.random.rand(), paddle.rand([2]).tolist()))
    assert drawn[0] == drawn[1]
