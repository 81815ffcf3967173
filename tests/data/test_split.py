import numpy as np
import pytest

from cifar_hapi.data.split import stratified_split
from cifar_hapi.errors import RecipeError


@pytest.mark.parametrize(
    ("class_sizes", "fraction", "held_out"),
    [
        ((100, 100), 0.1, (10, 10)),
        ((100, 30, 7), 0.1, (10, 3, 1)),
        ((1, 2, 3), 0.01, (0, 1, 1)),
        ((1, 2, 3), 0.99, (0, 1, 2)),
        ((10, 20), 0.0, (0, 0)),
        ((5000,) * 10, 0.1, (500,) * 10),
    ],
)
def test_each_class_gives_its_share(class_sizes, fraction, held_out):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(class_sizes)), class_sizes))

    train, validation = stratified_split(labels, fraction, seed=3)

    assert tuple(np.bincount(labels[validation], minlength=len(class_sizes))) == held_out
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    assert np.all(np.diff(train) > 0) and np.all(np.diff(validation) > 0)


def test_the_choice_depends_on_the_seed_alone():
    labels = np.tile(np.arange(10), 30)
    first, again, other = (stratified_split(labels, 0.2, seed)[1] for seed in (1, 1, 2))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_held_out_part_is_not_the_head_of_each_class():
    held_out = stratified_split(np.zeros(1000, np.int64), 0.1, seed=0)[1]

    assert 350 < held_out.mean() < 650


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(RecipeError, match=rf"val_fraction is {fraction}"):
        stratified_split(np.zeros(4, np.int64), fraction, seed=0)
