"""Recalibrated statistics are those of all images, natively and on the engine; nothing else has changed."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from small_training import write_small_cifar

from cifar_hapi import accelerate, load, recalibrate
from cifar_hapi.batch_norm.freezing import freeze_batch_norm
from cifar_hapi.building import build_training
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.sources import open_data
from cifar_hapi.errors import DataError, RecipeError, RunError
from cifar_hapi.networks import build_network

RNG = np.random.default_rng(0)
IMAGES = (RNG.standard_normal((23, 3, 8, 8)) * 3 + 1).astype("float32")
LABELS = RNG.integers(0, 4, 23)


def small_network():
    paddle.seed(0)
    return nn.Sequential(
        nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 4)
    )


def batches(*sizes):
    ends = np.cumsum(sizes)
    return [(IMAGES[end - size : end], LABELS[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def state(network):
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def changed(network, before):
    return {name for name, array in state(network).items() if array.tobytes() != before[name].tobytes()}


def before_the_norm(network, images=IMAGES):
    return network[0](paddle.to_tensor(images)).numpy().astype("float64")


@pytest.mark.parametrize("engine", ["native", "onednn"])
@pytest.mark.parametrize("sizes", [(23,), (8, 8, 7), (1, 20, 2)])
def test_the_statistics_are_those_of_all_values_in_batches_of_equal_and_unequal_size(sizes, engine):
    network = small_network()
    values, before = before_the_norm(network), state(network)
    if engine == "onednn" and accelerate(network).engine == "native":
        pytest.skip("this Paddle carries no oneDNN")
    found = recalibrate(network, batches(*sizes))
    np.testing.assert_allclose(network[1]._mean.numpy(), values.mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(network[1]._variance.numpy(), values.var((0, 2, 3)), rtol=1e-4)
    assert changed(network, before) == {"1._mean", "1._variance"}
    assert (found.images, found.batches, found.kept) == (23, len(sizes), ())


def test_the_engine_agrees_on_a_whole_network_and_evaluates_with_the_new_statistics():
    found = []
    for fast in (False, True):
        paddle.seed(0)
        network = build_network("resnet20", width=4)
        if fast and accelerate(network).engine == "native":
            pytest.skip("this Paddle carries no oneDNN")
        network.eval()
        x = paddle.to_tensor(IMAGES[:2])
        start = network(x).numpy()
        recalibrate(network, IMAGES, batch_size=6)
        assert not np.allclose(network(x).numpy(), start, rtol=1e-2)
        found.append({**state(network), "logits": network(x).numpy()})
    for name, array in found[0].items():
        np.testing.assert_allclose(found[1][name], array, rtol=1e-3, atol=1e-3, err_msg=name)


class Pairs(paddle.io.Dataset):
    """Images and labels one by one."""

    def __getitem__(self, place):
        return IMAGES[place], LABELS[place]

    def __len__(self):
        return len(IMAGES)


class Stream(paddle.io.IterableDataset):
    def __iter__(self):
        return iter(zip(IMAGES, LABELS, strict=True))


INPUTS = {
    "an array": lambda: IMAGES,
    "a pair": lambda: (IMAGES, LABELS),
    "a pair in a list, labels in a column": lambda: [IMAGES, LABELS[:, None]],
    "a Dataset": Pairs,
    "a Dataset without a length": Stream,
    "doubles": lambda: IMAGES.astype("float64"),
    "a tensor": lambda: paddle.to_tensor(IMAGES),
    "arrays": lambda: [IMAGES[:10], IMAGES[10:]],
    "a generator of inputs and labels": lambda: iter(batches(10, 13)),
    "paddle's loader": lambda: paddle.io.DataLoader(paddle.io.TensorDataset([IMAGES, LABELS]), batch_size=10),
}


@pytest.mark.parametrize("images", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("wrapped", [False, True], ids=["Layer", "paddle.Model"])
def test_what_users_have_is_taken(images, wrapped):
    network = small_network()
    values = before_the_norm(network)
    found = recalibrate(paddle.Model(network) if wrapped else network, images(), batch_size=9)
    np.testing.assert_allclose(network[1]._mean.numpy(), values.mean((0, 2, 3)), rtol=1e-4)
    assert found.images == 23


def test_a_batch_loader_is_taken_and_so_many_batches_of_it_as_are_asked_for():
    pixels = RNG.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    loader = BatchLoader(ImageSet(pixels, LABELS[:20], ("a", "b", "c", "d")), 8, std=(0.25,) * 3)
    network = small_network()
    found = recalibrate(network, loader, batches=2)
    values = before_the_norm(network, np.concatenate([loader.batch(0, 0)[0], loader.batch(0, 1)[0]]))
    np.testing.assert_allclose(network[1]._mean.numpy(), values.mean((0, 2, 3)), rtol=1e-4)
    assert (found.images, found.batches) == (16, 2)


def test_an_array_is_shuffled_by_the_seed():
    def statistics(seed):
        network = small_network()
        recalibrate(network, IMAGES, batches=1, batch_size=8, seed=seed)
        return network[1]._mean.numpy().tolist()

    in_order = before_the_norm(small_network(), IMAGES[:8]).mean((0, 2, 3))
    assert statistics(0) == statistics(0) != statistics(1)
    assert not np.allclose(statistics(0), in_order, rtol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_modes_momenta_and_random_numbers_are_what_they_were(training):
    network = small_network()
    network.train() if training else network.eval()
    network[3].training = not training
    modes = [layer.training for layer in network.sublayers()]
    drawn = []
    for recalibrates in (False, True):
        np.random.seed(1), paddle.seed(1)
        if recalibrates:
            recalibrate(network, batches(8, 8), evaluation=(IMAGES, LABELS))
        drawn.append((np.random.rand(), paddle.rand([2]).tolist()))
    assert drawn[0] == drawn[1]
    assert [layer.training for layer in network.sublayers()] == modes
    assert network[1]._momentum == 0.9


def two_norms():
    return nn.Sequential(nn.BatchNorm2D(3), nn.BatchNorm2D(3))


def test_frozen_layers_keep_their_statistics_and_the_report_says_so():
    network = two_norms()
    freeze_batch_norm(network[0])
    found = recalibrate(network, IMAGES)
    assert found.kept == ("0",) and [change.layer for change in found.changes] == ["1"]
    assert not network[0]._mean.numpy().any() and network[1]._mean.numpy().all()


def test_eval_freezes_a_layer_of_a_network_in_training_and_none_of_one_that_is_evaluated():
    network = two_norms()
    network[0].eval()
    assert recalibrate(network, IMAGES).kept == ("0",)
    network.eval()
    assert recalibrate(network, IMAGES).kept == ()


def test_the_report_has_the_changes_in_standard_deviations_and_ratios():
    network = nn.BatchNorm2D(3)
    network._mean.set_value(np.array([1, 2, 3], "float32"))
    network._variance.set_value(np.array([1, 4, 9], "float32"))
    (change,) = recalibrate(network, IMAGES).changes
    np.testing.assert_allclose(change.mean_shift, (IMAGES.mean((0, 2, 3)) - [1, 2, 3]) / [1, 2, 3], rtol=1e-3)
    np.testing.assert_allclose(change.variance_ratio, IMAGES.var((0, 2, 3)) / [1, 4, 9], rtol=1e-3)


def test_accuracy_before_and_after_is_that_of_the_statistics_before_and_after():
    network = small_network()
    network[1]._mean.set_value(np.full(4, 30, "float32"))

    def accuracy():
        network.eval()
        correct = network(paddle.to_tensor(IMAGES)).numpy().argmax(1) == LABELS
        network.train()
        return correct.mean()

    before = accuracy()
    found = recalibrate(network, IMAGES, evaluation=(IMAGES, LABELS), batch_size=5)
    assert found.accuracy_before == pytest.approx(before) and found.accuracy_after == pytest.approx(accuracy())
    assert before != accuracy()
    for same in (batches(10, 13), Pairs()):
        assert recalibrate(network, IMAGES, evaluation=same).accuracy_before == found.accuracy_after
    assert found.model is network
    text = str(found)
    assert text.startswith("statistics of 23 images in 5 batches") and f"{found.accuracy_after:.2%} after" in text


def frozen():
    network = nn.BatchNorm2D(3)
    freeze_batch_norm(network)
    return network


@pytest.mark.parametrize(
    ("network", "images", "options", "error", "message"),
    [
        (nn.Linear(2, 2), IMAGES, {}, RecipeError, "the network has no batch norm"),
        (frozen(), IMAGES, {}, RecipeError, "all batch-norm layers are frozen"),
        (two_norms(), IMAGES, {"batches": 0}, RecipeError, "batches = 0: must be a whole number, at least 1"),
        (two_norms(), IMAGES, {"batches": 1.5}, RecipeError, "batches = 1.5: must be a whole number"),
        (two_norms(), IMAGES, {"batch_size": 0}, RecipeError, "batch_size = 0: must be a whole number"),
        (two_norms(), IMAGES.astype("uint8"), {}, DataError, r"uint8 \[23, 3, 8, 8\]: expected floats"),
        (two_norms(), IMAGES[:0], {}, DataError, r"float32 \[0, 3, 8, 8\]: expected floats"),
        (two_norms(), [], {}, ValueError, r"batches has none \(left"),
        (two_norms(), IMAGES, {"evaluation": iter(batches(9))}, RecipeError, "evaluation is gone through twice"),
        (two_norms(), None, {}, RecipeError, "a model needs images"),
        (two_norms(), 5, {}, TypeError, "images: of type int: expected an array, a pair"),
        (two_norms(), (IMAGES, LABELS[:5]), {}, DataError, "images: 23 images have 5 labels"),
        (two_norms(), Pairs(), {"evaluation": IMAGES}, DataError, "evaluation: a batch has 0 labels, not 1"),
        (two_norms(), IMAGES, {"evaluation": (IMAGES, LABELS / 2)}, DataError, "evaluation: labels are float64"),
        (5, IMAGES, {}, TypeError, "a int is neither a paddle.Model nor a paddle.nn.Layer"),
        ("resnet20", IMAGES, {}, RunError, "resnet20 is no run"),
    ],
)
def test_what_cannot_be_is_refused(network, images, options, error, message):
    with pytest.raises(error, match=message):
        recalibrate(network, images, **options)


def uint8(images):
    return images.astype("uint8")


def channels_last(images):
    return images.transpose(0, 2, 3, 1)


def larger(images):
    return images.repeat(2, axis=2)


@pytest.mark.parametrize("engine", ["native", "onednn"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (uint8, r"uint8 \[9, 3, 8, 8\]: 0, a Conv2D, expects float32 \[N, 3, H, W\], .*; normalise images as in"),
        (channels_last, r"float32 \[9, 8, 8, 3\]: 0, a Conv2D, expects float32 \[N, 3, H, W\], and finds float32 \["),
        (
            larger,
            r"float32 \[9, 3, 16, 8\]: 5, a Linear, expects float32 \[N, ..., 144\], .* \[9, 336\]$",
        ),
    ],
)
def test_batches_that_the_network_does_not_take_are_told_and_nothing_changes(change, told, engine):
    network = small_network()
    if engine == "onednn" and accelerate(network).engine == "native":
        pytest.skip("this Paddle carries no oneDNN")
    before = state(network)
    with pytest.raises(DataError, match=f"^recalibrate: images: batch 1: {told}") as refused:
        recalibrate(network, [IMAGES[:9], change(IMAGES[:9])])
    assert "\n" not in str(refused.value) and changed(network, before) == set()
    with pytest.raises(DataError, match=r"^recalibrate: evaluation: "):
        recalibrate(network, IMAGES, evaluation=[(change(IMAGES), LABELS)])
    assert changed(network, before) == set() and network.training


class Sorted(paddle.io.Dataset):
    """Image k is k everywhere."""

    def __getitem__(self, place):
        return np.full((3, 2, 2), place, "float32")

    def __len__(self):
        return 9


def test_a_dataset_is_shuffled_and_cut_into_even_batches():
    network = nn.BatchNorm2D(3)
    found = recalibrate(network, Sorted(), batch_size=4, batches=2)
    assert (found.images, found.batches) == (6, 2)
    in_order = recalibrate(nn.BatchNorm2D(3), Sorted(), batch_size=4)
    assert (in_order.images, in_order.batches) == (9, 3)
    order = np.random.default_rng(0).permutation(9)[:6]
    assert order.tolist() != list(range(6))
    np.testing.assert_allclose(network._mean.numpy(), order.mean(), rtol=1e-6)


def test_a_run_is_recalibrated_on_its_training_images_as_it_was_trained(recorded_run, small_cifar):
    files = {file: file.read_bytes() for file in recorded_run.path.rglob("*") if file.is_file()}
    found = recalibrate(str(recorded_run.path), batches=2, data_dir=small_cifar)
    assert (found.images, found.batches) == (108, 2)
    recipe = recorded_run.recipe.with_overrides({"data.dir": str(small_cifar)})
    by_hand = load(recorded_run.path)
    batches = build_training(recipe, open_data(recipe.data, recipe.seed))[1][0]
    recalibrate(by_hand, batches, batches=2)
    expected = state(by_hand.network)
    assert changed(found.model.network, expected) == set()
    assert changed(load(recorded_run.path).network, expected) != set()
    assert {file: file.read_bytes() for file in recorded_run.path.rglob("*") if file.is_file()} == files


def test_the_model_that_fit_left_is_recalibrated_itself(recorded_run, small_cifar):
    kept = state(recorded_run.model.network)
    assert recalibrate(recorded_run, IMAGES.repeat(4, 2).repeat(4, 3)).model is recorded_run.model
    assert changed(recorded_run.model.network, kept) != set()
    assert recalibrate(recorded_run, batches=1, weights="best", data_dir=small_cifar).model is not recorded_run.model


def test_other_images_than_the_run_recorded_are_refused(recorded_run, tmp_path):
    write_small_cifar(tmp_path, seed=1)
    with pytest.raises(DataError, match=r"not the images that run .* recorded \(train\); give images to recalibrate"):
        recalibrate(recorded_run.path, data_dir=tmp_path)


def test_after_an_error_in_the_middle_all_is_as_before():
    def failing():
        yield IMAGES
        raise ConnectionError("mine")

    network = small_network()
    before = state(network)
    with pytest.raises(ConnectionError):
        recalibrate(network, failing())
    assert changed(network, before) == set() and network.training and network[1]._momentum == 0.9


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_images_that_are_no_numbers_are_refused_and_nothing_changes(bad):
    network = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4))
    images = np.ones((8, 3, 6, 6), "float32")
    images[3, 0, 0, 0] = bad
    before = {name: tensor.numpy() for name, tensor in network.state_dict().items()}

    with pytest.raises(DataError, match="hold NaN or infinity"):
        recalibrate(network, images, batch_size=4)

    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])
