"""diagnose: every fault is planted in a network that was healthy, and found where it is; nothing is disturbed."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import re
from functools import cache, partial
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn
from rich.console import Console
from safetensors.numpy import save_file
from small_training import small_fit

from callbacks.paddle_model import batch_statistics_in_evaluation, channel_axis, norm_layers, weight_decay
from cifar_hapi import Model, RunError, Training, accelerate, diagnose, freeze_batch_norm, recalibrate
from cifar_hapi.batch_norm.diagnosis import examine
from cifar_hapi.batch_norm.findings import Diagnosis, Finding
from cifar_hapi.batch_norm.observation import Outcome, distance
from cifar_hapi.batch_norm.observer import observe, read_batches
from cifar_hapi.batch_norm.processes import tensors_of
from cifar_hapi.batch_norm.rules import RULES, Found, rule, rules_table
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.normalisation import channel_statistics, normalise
from cifar_hapi.data.sources import open_data
from cifar_hapi.data.synthetic import draw
from cifar_hapi.engine import layers
from cifar_hapi.errors import DataError, RecipeError
from cifar_hapi.loss import CrossEntropy
from cifar_hapi.networks import build_network
from cifar_hapi.networks.airbench import Airbench

TRAINED_SO = Training(batch_size=40, images=1000, drop_last=True, steps=100)
SETTLED_SOON = Training(batch_size=20, images=240, steps=24)  # with a momentum of 0.8
ONE_OF_EACH_KIND = {  # the side of their images, and the engine that they are trained on
    "resnet20": (16, "onednn"),
    "plain20": (16, "onednn"),
    "resnet18": (8, "native"),
    "resnet50": (8, "native"),  # a fourth of the time that it takes on 16x16 and the engine
    "speednet": (16, "onednn"),
    "airbench": (16, "onednn"),
}


@cache
def generated(split, count, side=16):
    """Normalised images [count, 3, side, side], float32, and their labels."""
    pixels, labels = draw(split, count)
    step = 32 // side
    pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)[:, ::step, ::step])
    return normalise(pixels, *channel_statistics(pixels), "NCHW"), labels


def trained(network, images, labels, epochs=3, size=20, engine="onednn"):
    """A model after some epochs at a rate that ends at 0, so that running statistics have settled."""
    if isinstance(network, Airbench):
        network.whiten(images[:200])
    if engine == "onednn":
        accelerate(network)
    model, steps = Model(network), epochs * (len(images) // size)
    rate = paddle.optimizer.lr.CosineAnnealingDecay(0.05, steps)
    parameters = [each for each in network.parameters() if not each.stop_gradient]
    model.prepare(paddle.optimizer.Momentum(rate, 0.9, parameters=parameters), CrossEntropy())
    rng = np.random.default_rng(0)
    for step in range(steps):
        if step % (steps // epochs) == 0:
            order = rng.permutation(len(images))
        chosen, order = order[:size], order[size:]
        model.train_batch([images[chosen]], [labels[chosen]])
        rate.step()
    return model


class Net(nn.Layer):
    """Three convolutions with batch norm, the last of them behind a residual sum; vectors are normalised, too."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2D(3, 8, 3, 2, 1), nn.BatchNorm2D(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2D(8, 8, 3, 1, 1), nn.BatchNorm2D(8), nn.ReLU())
        self.last, self.norm = nn.Conv2D(8, 8, 3, 1, 1), nn.BatchNorm2D(8)
        self.act = nn.ReLU()
        self.head = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1D(16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x):
        x = self.stem(x)
        x = self.act(self.norm(self.last(self.body(x))) + x)
        return self.head(x.mean([2, 3]))


NORMS = ["stem.1", "body.1", "norm", "head.1"]


@pytest.fixture(scope="session")
def seen():
    """Images that no network here was trained on."""
    return generated("test", 200)


@pytest.fixture(scope="session")
def healthy(seen):
    paddle.seed(0)
    return trained(Net(), *generated("train", 1000), epochs=4, size=40, engine="native")


@pytest.fixture
def model(healthy):
    """A copy of the healthy network, in which to plant a fault."""
    network = Net()
    network.set_state_dict({name: tensor.numpy().copy() for name, tensor in healthy.network.state_dict().items()})
    return prepared(network)


def prepared(network):
    model = Model(network)
    parameters = [each for each in network.parameters() if not each.stop_gradient]
    model.prepare(paddle.optimizer.Momentum(0.1, parameters=parameters), CrossEntropy())
    model.network.eval()
    return model


def change(tensor, channels, value):
    array = tensor.numpy().copy()
    array[channels] = value
    tensor.set_value(array)


def norm_of(model, name):
    return dict(model.network.named_sublayers())[name]


def test_a_healthy_network_shows_nothing(healthy, seen):
    found = diagnose(healthy, seen, test_data=generated("test", 300), training=TRAINED_SO)
    assert not list(found), str(found)
    assert (found.worst, found.layers, found.images, found.rules) == (None, 4, 200, len(RULES))


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_healthy_networks_of_every_kind_show_nothing_above_a_note(name):
    paddle.seed(0)
    side, engine = ONE_OF_EACH_KIND[name]
    network = build_network(name, width=4)
    for norm in norm_layers(network).values():
        norm._momentum = 0.8
    model = trained(network, *generated("train", 240, side), epochs=2, engine=engine)
    data, test_data = (generated("test", count, side) for count in (120, 60))
    found = diagnose(model, data, test_data=test_data, training=SETTLED_SOON)
    assert not found.at_least("warning"), str(found)


def nan_mean(model):
    change(norm_of(model, "body.1")._mean, [2], np.nan)


def negative(model):
    change(norm_of(model, "body.1")._variance, [1, 4], -0.5)


def start_over(model):
    change(norm_of(model, "norm")._mean, slice(None), 0)
    change(norm_of(model, "norm")._variance, slice(None), 1)


def frozen_at_start(model):
    start_over(model)
    norm_of(model, "norm")._use_global_stats = True


def nan_filter(model):
    change(model.network.body[0].weight, [2], np.nan)


def moved_means(model):
    norm = norm_of(model, "norm")
    change(norm._mean, [0, 3], norm._mean.numpy()[[0, 3]] + 3 * np.sqrt(norm._variance.numpy()[[0, 3]]))


def larger_variance(model):
    norm = norm_of(model, "head.1")
    change(norm._variance, [5], 40 * norm._variance.numpy()[5])


def stale(model):
    for name in NORMS:
        norm = norm_of(model, name)
        norm._mean.set_value(norm._mean.numpy() + 2 * np.sqrt(norm._variance.numpy()))


def no_scale(model):
    change(norm_of(model, "stem.1").weight, [6], 0)


def no_scales(model):
    change(norm_of(model, "stem.1").weight, [0, 1, 2, 3, 4], 1e-5)


def dead(model, channels):
    change(norm_of(model, "body.1").bias, channels, -100)


def zero_filter(model):
    conv = model.network.body[0]
    change(conv.weight, [7], 0)
    change(conv.bias, [7], 0.25)


def small_filter(model, factor):
    conv = model.network.body[0]
    change(conv.weight, [3], factor * conv.weight.numpy()[3])


def grown(model):
    conv = model.network.last
    conv.weight.set_value(1000 * conv.weight.numpy())


def shrunk(model):
    conv = model.network.body[0]
    conv.weight.set_value(conv.weight.numpy() / 1000)


def vast(model):
    change(model.network.last.bias, [2], 1e5)


def frozen_by_half(model):
    for tensor in (norm_of(model, "norm").weight, norm_of(model, "norm").bias):
        tensor.stop_gradient = True


def shift_alone(model):
    norm_of(model, "head.1").weight.stop_gradient = True


def one_in_evaluation_mode(model):
    model.network.train()
    norm_of(model, "stem.1").eval()


def always_by_batch(model):
    norm_of(model, "norm")._use_global_stats = False


def spare(model):
    model.network.spare = nn.BatchNorm2D(8)


def bypassed(model):
    for parent, name in ((model.network.stem, "1"), (model.network.body, "1"), (model.network.head, "1")):
        parent.add_sublayer(name, nn.Identity())
    model.network.spare, model.network.norm = model.network.norm, nn.Identity()


ALL = ()  # channels of a finding that is about the layer
FAULTS = [
    # what is planted, the rule, its severity, layer and channels
    (nan_mean, "not-finite", "error", "body.1", (2,)),
    (negative, "negative-variance", "error", "body.1", (1, 4)),
    (start_over, "never-trained", "error", "norm", ALL),
    (frozen_at_start, "frozen-at-start", "warning", "norm", ALL),
    (nan_filter, "not-finite", "error", "body.1", (2,)),
    (moved_means, "lagging-statistics", "warning", "norm", (0, 3)),
    (larger_variance, "lagging-statistics", "warning", "head.1", (5,)),
    (stale, "train-evaluation-gap", "error", None, ALL),
    (no_scale, "dead-scale", "note", "stem.1", (6,)),
    (no_scales, "dead-scale", "warning", "stem.1", (0, 1, 2, 3, 4)),
    (partial(dead, channels=[1, 5]), "never-positive", "note", "body.1", (1, 5)),
    (partial(dead, channels=[0, 1, 2, 3, 4]), "never-positive", "warning", "body.1", (0, 1, 2, 3, 4)),
    (partial(dead, channels=slice(None)), "never-positive", "error", "body.1", tuple(range(8))),
    (zero_filter, "constant-input", "warning", "body.1", (7,)),
    (partial(small_filter, factor=6e-3), "epsilon-too-large", "note", "body.1", (3,)),
    (partial(small_filter, factor=1e-3), "epsilon-too-large", "warning", "body.1", (3,)),
    (grown, "variance-through-depth", "warning", "norm", ALL),
    (shrunk, "variance-through-depth", "warning", "body.1", ALL),
    (vast, "beyond-float16", "warning", "norm", (2,)),
    (frozen_by_half, "frozen-but-updating", "warning", "norm", ALL),
    (shift_alone, "one-without-gradient", "warning", "head.1", ALL),
    (one_in_evaluation_mode, "evaluation-mode-in-training", "warning", "stem.1", ALL),
    (spare, "never-called", "note", "spare", ALL),
    (bypassed, "never-called", "note", "spare", ALL),
    (always_by_batch, "batch-statistics-in-evaluation", "error", "norm", ALL),
]


@pytest.mark.parametrize(
    ("plant", "name", "severity", "layer", "channels"),
    FAULTS,
    ids=[f"{getattr(plant, 'func', plant).__name__}-{severity}" for plant, _, severity, *_ in FAULTS],
)
def test_a_planted_fault_is_found_where_it_is(model, seen, plant, name, severity, layer, channels):
    assert not diagnose(model, seen).of(name)
    plant(model)
    found, *further = diagnose(model, seen).of(name)
    assert (found.severity, found.layer, found.channels) == (severity, layer, channels)
    assert all(each.layer == "head.1" for each in further)  # which what is dead before it may kill, too


@pytest.mark.parametrize(
    ("training", "name", "severity"),
    [
        (Training(batch_size=15), "tiny-batch", "warning"),
        (Training(batch_size=1), "tiny-batch", "error"),
        (Training(batch_size=64, images=641), "small-last-batch", "warning"),
        (Training(batch_size=64, images=642), "small-last-batch", "note"),
        (Training(steps=43), "starting-values-left", "warning"),
    ],
)
def test_how_it_was_trained_is_looked_at(model, seen, training, name, severity):
    found = diagnose(model, seen, training=training).of(name)
    assert [(each.layer, each.severity) for each in found] == [(layer, severity) for layer in NORMS]


@pytest.mark.parametrize(
    "training",
    [Training(batch_size=16), Training(64, 641, drop_last=True), Training(64, 640), Training(steps=44), Training()],
)
def test_a_sound_training_gives_no_finding(model, seen, training):
    assert not list(diagnose(model, seen, training=training))


def test_the_noise_of_a_batch_is_that_of_batches_that_are_drawn(model, seen):
    found = diagnose(model, seen, training=Training(batch_size=4)).of("tiny-batch")[3]
    norm = dict(model.network.named_sublayers())["head.1"]
    inputs = []
    hook = norm.register_forward_pre_hook(lambda layer, given: inputs.append(given[0].numpy()))
    with paddle.no_grad():
        model.network(paddle.to_tensor(seen[0]))
    hook.remove()
    (values,) = inputs
    rng = np.random.default_rng(0)
    means = np.stack([values[rng.integers(0, len(values), 4)].mean(axis=0) for _ in range(4000)])
    measured = np.sqrt(np.mean(means.var(axis=0) / values.var(axis=0)))
    assert found.evidence["mean of a batch off by (standard deviations)"] == pytest.approx(measured, rel=0.05) == 0.5
    assert found.evidence["values a channel"] == 4


@pytest.mark.parametrize("kind", ["Momentum", "SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("decay", [0.01, paddle.regularizer.L2Decay(0.01)], ids=["number", "L2Decay"])
def test_weight_decay_of_scale_and_shift_is_noted(model, seen, kind, decay):
    if kind == "AdamW" and not isinstance(decay, float):
        pytest.skip("AdamW takes numbers")
    parameters = model.network.parameters()
    model.prepare(getattr(paddle.optimizer, kind)(0.1, parameters=parameters, weight_decay=decay), CrossEntropy())
    found = diagnose(model, seen)
    assert [(each.rule, each.severity, each.layer) for each in found] == [("weight-decay", "note", n) for n in NORMS]
    assert found[0].evidence == {"decay of scale": 0.01, "decay of shift": 0.01}


def test_only_decays_that_there_are_are_told(model, seen):
    for name in NORMS:
        norm_of(model, name).weight.regularizer = paddle.regularizer.L2Decay(0.0)
    sgd = paddle.optimizer.SGD(0.1, parameters=model.network.parameters(), weight_decay=0.01)
    model.prepare(sgd, CrossEntropy())
    found = diagnose(model, seen).of("weight-decay")
    assert [each.shown_evidence for each in found] == ["decay of shift 0.01"] * 4


@pytest.mark.parametrize("kind", ["Momentum", "SGD", "Adam"])
def test_weight_decay_is_read_where_it_acts(kind):
    """A parameter without a gradient from the loss moves by its decay alone, if any."""
    for decay in (None, 0.01):
        parameter = paddle.create_parameter([1], "float32", default_initializer=nn.initializer.Constant(1.0))
        used = getattr(paddle.optimizer, kind)(0.1, parameters=[parameter], weight_decay=decay)
        (parameter * 0).sum().backward()
        used.step()
        assert (float(parameter.sum()) < 1) == (weight_decay(used, parameter) == 0.01) == (decay is not None)


def test_adamw_can_spare_them(model, seen):
    network, spared = model.network, ("stem.1", "body.1", "norm", "head.1")
    names = {tensor.name for name in spared for tensor in norm_of(model, name).parameters()}
    for decays, count in ((lambda name: True, 4), (lambda name: name not in names, 0)):
        adamw = paddle.optimizer.AdamW(0.1, parameters=network.parameters(), apply_decay_param_fun=decays)
        model.prepare(adamw, CrossEntropy())
        assert len(diagnose(model, seen).of("weight-decay")) == count


def test_frozen_layers_are_left_in_peace(model, seen):
    frozen_by_half(model)
    norm_of(model, "norm")._use_global_stats = True
    assert not list(diagnose(model, seen, training=Training(batch_size=16)))
    assert [each.layer for each in diagnose(model, seen, training=Training(batch_size=2)).of("tiny-batch")] == [
        name for name in NORMS if name != "norm"
    ]


def test_a_layer_that_is_frozen_in_both_ways_by_modes_is_left_in_peace(model, seen):
    frozen_by_half(model)
    model.network.train()
    norm_of(model, "norm").eval()
    assert not list(diagnose(model, seen))


@pytest.mark.parametrize(
    "make", [nn.BatchNorm2D, nn.BatchNorm, partial(nn.BatchNorm2D, data_format="NHWC")], ids=["2D", "old", "NHWC"]
)
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_paddle_gives_a_gradient_to_neither_where_one_is_frozen(make, frozen):
    """What `one-without-gradient` says; should it fail, the rule has no reason any more."""
    norm = make(3)
    getattr(norm, frozen).stop_gradient = True
    (norm(paddle.randn([4, 3, 3, 3])) ** 3).sum().backward()
    assert norm.weight.grad is None and norm.bias.grad is None


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm2D(3, use_global_stats=False), [2, 3, 4, 4]),
        (nn.BatchNorm2D(3), [2, 3, 4, 4]),
        (nn.BatchNorm2D(3, data_format="NHWC"), [2, 4, 4, 3]),
        (nn.BatchNorm(3, trainable_statistics=True), [2, 3, 4, 4]),
        (nn.BatchNorm(3), [2, 3, 4, 4]),
        (nn.BatchNorm(3, data_layout="NHWC"), [2, 4, 4, 3]),
        (nn.BatchNorm1D(3, data_format="NLC"), [2, 5, 3]),
        (nn.BatchNorm1D(3, data_format="NLC"), [2, 3]),
        (nn.BatchNorm3D(3, data_format="NDHWC"), [2, 2, 2, 2, 3]),
    ],
    ids=str,
)
def test_what_paddle_keeps_private_is_what_it_does(norm, shape):
    """In evaluation mode statistics move if we say so, and the channels are where we say."""
    x, axis = paddle.randn(shape) + 5, channel_axis(norm, len(shape))
    norm.eval()
    norm(x)
    assert norm._mean.numpy().any() == batch_statistics_in_evaluation(norm)
    norm.train()
    others = tuple(each for each in range(len(shape)) if each != axis % len(shape))
    before = norm._mean.numpy()
    norm(x)
    np.testing.assert_allclose(norm._mean.numpy(), 0.9 * before + 0.1 * x.numpy().mean(others), rtol=1e-4)


def weights(model):
    return {name: tensor.numpy().copy() for name, tensor in model.network.state_dict().items()}


def other_process(model, name=None, change=0.0):
    tensors = weights(model)
    if name:
        tensors[name][3] += change
    return tensors


@pytest.mark.parametrize(
    ("name", "change", "severity"),
    [
        ("norm._mean", 1e-4, "note"),
        ("norm._mean", 50.0, "warning"),
        ("norm._variance", 500.0, "warning"),
        ("norm.weight", 1e-4, "error"),
    ],
)
def test_processes_that_differ_are_told(model, seen, name, change, severity, tmp_path):
    same = other_process(model)
    assert not list(diagnose(model, seen, processes=[same]))
    save_file(other_process(model, name, change), tmp_path / "rank1.safetensors")
    (found,) = diagnose(model, seen, processes=[same, tmp_path / "rank1.safetensors"])
    assert (found.rule, found.severity, found.layer) == ("unsynchronised", severity, "norm")
    assert found.channels == (() if name.endswith("weight") else (3,)) and found.evidence["process"] == 2


def test_tensors_of_paddle_are_a_process_too(model):
    tensors_of(model.network.state_dict(), weights(model))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda end: len(end).to_bytes(8, "little") + end))
def test_what_is_no_safetensors_file_is_refused_in_one_line(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("hostile") / "rank1.safetensors"
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"rank1\.safetensors: [^\n]+$"):
        tensors_of(file, {"weight": np.zeros(3, np.float32)})


def test_files_that_cannot_be_are_refused(tmp_path):
    own = {"weight": np.zeros(3, np.float32)}
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2**40)
    other, pipe = tmp_path / "other", tmp_path / "pipe"
    os.mkfifo(pipe)
    save_file({"weight": np.zeros(4, np.float32)}, other)
    cases = {
        large: "larger than",
        other: "another network: weight",
        tmp_path: "cannot be read: Is a directory",
        pipe: "is no file",
        tmp_path / "none": "cannot be read",
    }
    for path, text in cases.items():
        with pytest.raises(RunError, match=text):
            tensors_of(path, own)


def corrupted(images, kind):
    rng = np.random.default_rng(0)
    shifts = [(i, j) for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2)]
    return {
        "noise": lambda: images + rng.standard_normal(images.shape).astype(np.float32),
        "blur": lambda: np.mean([np.roll(images, shift, (2, 3)) for shift in shifts], axis=0, dtype=np.float32),
        "brightness": lambda: images + np.float32(2),
    }[kind]()


def test_test_images_that_have_not_shifted_are_none(model, seen):
    assert not diagnose(model, seen, test_data=generated("test", 400)).of("shifted-test-images")


@pytest.mark.parametrize("kind", ["noise", "blur", "brightness"])
def test_test_images_that_have_shifted_are_told(model, seen, kind):
    images, labels = generated("test", 400)
    (found,) = diagnose(model, seen, test_data=(corrupted(images, kind), labels))
    assert (found.rule, found.severity) == ("shifted-test-images", "warning")
    assert found.layer in NORMS and len(found.channels)


def test_recalibration_on_shifted_images_is_that_of_their_statistics(model, seen):
    images, labels = corrupted(seen[0], "brightness"), seen[1]
    (found,) = diagnose(model, seen, test_data=(images, labels), batch_size=200)
    model.network.train()
    with paddle.no_grad():
        by_batch = model.network(paddle.to_tensor(images)).numpy()
    accuracy = (by_batch.argmax(axis=1) == labels).mean()
    assert found.evidence["after recalibration"] == pytest.approx(accuracy, abs=1e-6)
    assert found.evidence["on the test images"] < accuracy - 0.05


def test_statistics_are_those_of_numpy(model, seen):
    """Of a convolution's output in evaluation mode, and of images in two batches of unequal size."""
    images = seen[0][:33]
    (layer, *_) = observe(model, read_batches(model, images, 33, 20)).layers
    with paddle.no_grad():
        z = model.network.stem[0](paddle.to_tensor(images)).numpy()
        passed = model.network.stem(paddle.to_tensor(images)).numpy() > 0
    for inputs in (layer.deployed, layer.trained):
        np.testing.assert_allclose(inputs.mean, z.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(inputs.variance, z.var((0, 2, 3)), rtol=1e-4)
        np.testing.assert_allclose(inputs.between, z.mean((2, 3)).var(0), rtol=1e-4)
        squares = (z - z.mean((0, 2, 3), keepdims=True)) ** 2
        np.testing.assert_allclose(inputs.spread, squares.mean((2, 3)).var(0), rtol=1e-3)
        assert (inputs.low == z.min((0, 2, 3))).all() and (inputs.high == z.max((0, 2, 3))).all()
        assert (inputs.images, inputs.values) == (33, 64)
    np.testing.assert_allclose(layer.positive, passed.mean((0, 2, 3)), atol=0.01)


def test_the_noise_of_few_images_is_no_distance(healthy, seen):
    """Fewer images are further away, but not beyond what their own spread explains."""
    raw, left = [], []
    for start in range(0, 200, 20):
        for layer in observe(healthy, read_batches(healthy, seen[0][start : start + 20], 20, 20)).layers:
            away = distance(layer, layer.trained)
            raw.append([np.sqrt(np.mean(each**2)) for each in (away.mean, away.log_ratio)])
            left.append([away.typical_mean, away.typical_log_ratio])
    assert (np.mean(left, axis=0) < 0.6 * np.mean(raw, axis=0)).all()


def test_channels_last_shows_the_same(seen):
    paddle.seed(0)
    networks = {form: build_network("speednet", width=4, data_format=form) for form in ("NCHW", "NHWC")}
    networks["NHWC"].set_state_dict(networks["NCHW"].state_dict())
    images = {"NCHW": seen[0][:20], "NHWC": seen[0][:20].transpose(0, 2, 3, 1)}
    ones, others = (
        observe(Model(network), read_batches(Model(network), images[form], 20, 20)).layers
        for form, network in networks.items()
    )
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_allclose(one.trained.variance, other.trained.variance, rtol=1e-3)
        np.testing.assert_allclose(one.positive, other.positive, atol=1e-3)


def test_a_relu_behind_a_sum_is_not_that_of_the_norm(model, seen):
    layers_seen = observe(model, read_batches(model, seen, 50, 50)).by_name
    assert [layers_seen[name].positive is not None for name in NORMS] == [True, True, False, True]


def random_numbers():
    return random.random(), np.random.random(), paddle.rand([2]).tolist()


def seed():
    random.seed(5)
    np.random.seed(5)
    paddle.seed(5)


def drawing_loader(images, labels):
    random_numbers()
    yield [images, labels]


@pytest.mark.parametrize("drawn_by", ["loader", "layer"])
def test_random_numbers_are_not_used_up(model, seen, drawn_by):
    hook = model.network.act.register_forward_pre_hook(lambda layer, given: random_numbers() and None)
    if drawn_by == "loader":
        hook.remove()
    seed()
    expected = random_numbers()
    seed()
    diagnose(model, drawing_loader(*seen) if drawn_by == "loader" else seen)
    assert random_numbers() == expected


@pytest.mark.parametrize("engine", ["native", "onednn"])
def test_nothing_is_disturbed(seen, engine):
    paddle.seed(0)
    network = build_network("resnet20", width=4)
    if engine == "onednn" and accelerate(network).engine != "onednn":
        pytest.skip("no oneDNN here")
    model = prepared(network)
    model.network.train()
    frozen = network.sublayers()[3]
    frozen.eval()
    x = paddle.to_tensor(seen[0][:8])
    modes = [layer.training for layer in network.sublayers(include_self=True)]
    before = weights(model)
    few = tuple(part[:20] for part in seen)
    diagnose(model, few, test_data=few)
    assert all(before[name].tobytes() == now.tobytes() for name, now in weights(model).items())
    assert [layer.training for layer in network.sublayers(include_self=True)] == modes
    assert not any(map(layers.has_hooks, network.sublayers(include_self=True)))
    network.eval()
    fresh = build_network("resnet20", width=4)
    fresh.set_state_dict(network.state_dict())
    fresh.eval()
    if engine == "onednn":
        accelerate(fresh)
    with paddle.no_grad():
        assert network(x).numpy().tobytes() == fresh(x).numpy().tobytes()


def test_hooks_run_on_the_engine_too(seen):
    """There the forward pass of the whole network is replaced; all layers are seen, and the same as natively."""
    paddle.seed(0)
    network = build_network("resnet20", width=4)
    network.eval()
    batches = read_batches(Model(network), seen, 20, 10)
    native = observe(Model(network), batches)
    if accelerate(network).engine != "onednn":
        pytest.skip("no oneDNN here")
    with paddle.no_grad():
        network(paddle.to_tensor(seen[0][:10]))  # so that there is a program for this shape
    engine = observe(Model(network), batches)
    assert len(engine.layers) == 19 and not engine.unused
    for one, other in zip(native.layers, engine.layers, strict=True):
        assert one.name == other.name
        assert (one.deployed.variance == other.deployed.variance).all()
        assert one.positive is None or (one.positive == other.positive).all()


def test_after_an_error_all_is_as_before_too(model, seen):
    images, labels = seen
    before = weights(model)
    with pytest.raises(DataError, match="labels 0 to 10"):
        diagnose(model, (images, np.where(labels == 9, 10, labels)))
    assert all(before[name].tobytes() == now.tobytes() for name, now in weights(model).items())
    assert not any(map(layers.has_hooks, model.network.sublayers(include_self=True)))


def test_findings_are_json_and_text(model, seen):
    nan_mean(model)
    dead(model, [0, 3])
    found = diagnose(model, seen, training=Training(batch_size=8))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["worst"] == "error" == told["findings"][0]["severity"]
    severities = [each["severity"] for each in told["findings"]]
    assert severities == [each.severity for each in found] == sorted(severities, key=["error", "warning", "note"].index)
    console = Console(width=100, record=True, file=io.StringIO())
    found.show(console)
    for text in (str(found), console.export_text()):
        assert "error: not-finite\n    body.1, channel 2: channels 1, of 8\n" in text
        assert "note: never-positive\n    body.1, channels 0, 3: dead 2, of 8\n" in text
        assert text.count("-> Take larger batches") == 1
    assert str(found.of("tiny-batch")[0]).startswith("warning: tiny-batch: stem.1\n    images 8, ")


def test_rules_that_cannot_look_are_counted_and_named(model, seen):
    bare = Model(model.network)
    found = diagnose(bare, seen[0])
    lacking = {
        "starting-values-left": "training.steps",
        "train-evaluation-gap": "labels",
        "tiny-batch": "training.batch_size",
        "small-last-batch": "training.images",
        "weight-decay": "optimiser",
        "unsynchronised": "processes",
        "shifted-test-images": "test_data",
    }
    assert found.unable == lacking and found.to_dict()["unable"] == lacking
    count = len(RULES)
    assert found.summary == f"nothing found: 4 batch norms, 200 images, {count - len(lacking)} of {count} rules"
    assert (
        str(found).splitlines()[1].startswith("could not look: no training.steps (starting-values-left), no labels (")
    )
    few = tuple(part[:40] for part in seen)
    able = diagnose(model, few, test_data=few, training=TRAINED_SO, processes=[other_process(model)])
    assert not able.unable and able.summary.endswith(f"40 images, {count} rules") and not able.not_looked


def test_a_network_without_relu_layers_is_one_that_a_rule_cannot_look_at():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1D(3))
    found = diagnose(Model(network), np.random.default_rng(0).normal(size=(20, 4)).astype("float32"))
    assert found.unable["never-positive"] == "ReLU layer behind" and "1 batch norm, 20 images" in found.summary


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["data", "test_data"])
def test_images_that_are_no_numbers_are_refused_and_named(model, seen, value, what):
    images, labels = seen
    images = images.copy()
    images[[150, 5], 0, 3, 3] = value
    given = {"data": seen, what: (images, labels)}
    text = f"^diagnose: {what}: images hold NaN or infinity: image 5 and 1 more of 200, counted from 0; look at .*$"
    with pytest.raises(DataError, match=text):
        diagnose(model, given.pop("data"), **given)


def test_of_what_is_no_number_the_first_layer_is_told():
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1D(6), nn.Linear(6, 3), nn.BatchNorm1D(3))
    change(network[0].bias, [2], np.nan)
    found = diagnose(Model(network), vectors(20)).of("not-finite")
    assert [(each.layer, each.channels, each.evidence) for each in found] == [("1", (2,), {"inputs": 1, "of": 6})]


def vectors(count):
    """Sound vectors of two classes and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    return (rng.normal(size=(count, 4)) + 2 * labels[:, None]).astype("float32"), labels


def trained_on_vectors(size=50, freeze=False, steps=60):
    paddle.seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1D(16), nn.ReLU(), nn.Linear(16, 2))
    model, (x, y) = prepared(network), vectors(200)
    frozen = freeze_batch_norm(model) if freeze else None
    for step in range(steps):
        places = np.arange(step * size, (step + 1) * size) % 200
        model.train_batch([x[places]], [y[places]])
    return model, frozen


def test_layers_that_were_frozen_at_the_start_are_told_what_is_true_of_them_and_the_advice_mends_them():
    model, frozen = trained_on_vectors(freeze=True)
    found = diagnose(model, vectors(200))
    assert [(each.rule, each.severity) for each in found] == [("frozen-at-start", "warning")], str(found)
    assert "undo()" in found[0].action and "use_global_stats=None" in found[0].action
    frozen.undo()
    recalibrate(model, vectors(200)[0])
    assert not {"frozen-at-start", "never-trained", "lagging-statistics"} & {
        each.rule for each in diagnose(model, vectors(200))
    }


def test_frozen_layers_do_not_lag_behind_what_they_are_trained_with(model, seen):
    moved_means(model)
    assert diagnose(model, seen).of("lagging-statistics")
    freeze_batch_norm(model)
    assert not diagnose(model, seen).at_least("warning")


def test_batches_of_one_vector_leave_a_layer_as_it_was_and_both_causes_are_told():
    model, _ = trained_on_vectors(size=1)
    found = diagnose(model, vectors(200))
    (never,) = found.of("never-trained")
    assert "training mode with data, or only with batches of one value a channel" in never.meaning
    assert never.action.startswith("After batches of one value, train anew with larger ones.")
    assert not found.of("lagging-statistics")


OF_CHANNELS = {
    "lagging-statistics",
    "train-evaluation-gap",
    "never-positive",
    "constant-input",
    "epsilon-too-large",
    "variance-through-depth",
}


@pytest.mark.parametrize("count", [1, 2, 3, 8, 15])
def test_of_too_few_vectors_nothing_is_found_and_it_is_told_why(count):
    found = diagnose(trained_on_vectors()[0], vectors(count))
    assert not list(found), str(found)
    few = {name for name, lacking in found.unable.items() if lacking.startswith("images enough (at least 3, with 16 ")}
    assert few == OF_CHANNELS
    assert "no images enough (at least 3, with 16 values a channel) (lagging-statistics" in found.not_looked


@pytest.mark.parametrize(("count", "side", "able"), [(1, 8, False), (2, 8, False), (3, 8, True), (3, 2, False)])
def test_places_count_as_values_and_images_must_be_some(count, side, able):
    network = nn.Sequential(nn.Conv2D(3, 4, 1), nn.BatchNorm2D(4))
    found = diagnose(Model(network), generated("test", count)[0][:, :, :side, :side])
    assert ("lagging-statistics" not in found.unable) == able


def test_sixteen_vectors_are_enough():
    found = diagnose(trained_on_vectors()[0], vectors(16))
    assert not OF_CHANNELS & set(found.unable) and not found.at_least("warning")


def test_of_few_test_images_no_shift_is_told(model, seen):
    images = corrupted(seen[0][:15], "brightness")
    found = diagnose(model, seen, test_data=images)
    assert not list(found) and found.unable["shifted-test-images"].startswith("test images enough")


@pytest.mark.parametrize(
    ("right", "losses", "severity", "meaning"),
    [
        (0.5, 1.0, "error", "The network knows more than it shows in evaluation"),
        (0.9, 1.0, "note", "In evaluation the loss is higher, though the network is not surely less often right"),
        (1.0, 1.0, "note", "In evaluation the loss is higher, though the network is not surely less often right"),
    ],
)
def test_the_words_of_a_gap_are_those_of_its_numbers(model, seen, right, losses, severity, meaning):
    batches = read_batches(model, seen, 200, 100)
    by_batch = Outcome(np.full(200, 0.5), np.arange(200) < 180)
    by_running = Outcome(np.full(200, losses), np.arange(200) < 200 * right)
    observed = dataclasses.replace(observe(model, batches), by_running=by_running, by_batch=by_batch)
    (found,) = examine(observed).of("train-evaluation-gap")
    assert found.severity == severity and found.meaning.startswith(meaning)
    assert "see lagging-statistics" not in found.action


@pytest.mark.parametrize("name", ["starting-values-left", "lagging-statistics"])
def test_the_momentum_that_is_meant_is_the_layers(name):
    (action,) = (each.action for each in RULES if each.name == name)
    assert "lower the layer's own momentum (BatchNorm2D(momentum=), not optimizer.momentum)" in action


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"batch_size": "8"}, "batch_size = '8': must be a whole number, at least 1"),
        ({"batch_size": 0, "steps": -3}, "batch_size = 0: must be a whole number, at least 1"),
        ({"images": 0.5}, "images = 0.5: must be a whole number, at least 1"),
        ({"steps": -3}, "steps = -3: must be a whole number, at least 0"),
    ],
)
def test_a_training_that_cannot_be_is_refused(numbers, text):
    with pytest.raises(RecipeError, match=f"^Training: {text}$"):
        Training(**numbers)


def test_a_training_of_no_steps_can_be():
    assert Training(steps=0).steps == 0


def test_a_rule_that_there_is_not_is_refused(model, seen):
    with pytest.raises(ValueError, match=r"^of: no rule 'dead_scale' has looked; there are not-finite, [^\n]*$"):
        diagnose(model, seen).of("dead_scale")


def test_a_rule_of_ones_own_joins_in(model, seen):
    @rule("wide", looks_at="channels", threshold="more than 8", meaning="It is wide.", action="Nothing.")
    def wide(observation):
        for layer in observation.layers:
            if len(layer.scale) > 8:
                yield Found("note", {"channels": len(layer.scale)}, layer.name)

    (found,) = diagnose(model, seen, rules=[wide])
    assert (found.rule, found.layer, found.evidence) == ("wide", "head.1", {"channels": 16})


def test_every_rule_is_tried_here():
    tried = {name for _, name, *_ in FAULTS} | {"tiny-batch", "small-last-batch", "starting-values-left"}
    assert tried | {"weight-decay", "unsynchronised", "shifted-test-images"} == {each.name for each in RULES}


def test_data_comes_in_many_forms(model, seen):
    images, labels = seen
    forms = [
        (images, labels),
        [[images[:90], labels[:90]], [images[90:], labels[90:, None]]],
        paddle.io.TensorDataset([paddle.to_tensor(images), paddle.to_tensor(labels)]),
        Pairs(images, labels),
        (images.astype("float64"), labels.astype("uint8")[:, None]),
        [images, labels],
        [(images[:90], labels[:90]), (images[90:], labels[90:])],
    ]
    expected = [part for batch in read_batches(model, forms[0], 200, 64) for part in batch]
    for form in forms[1:]:
        found = [part for batch in read_batches(model, form, 200, 64) for part in batch]
        assert all((one == other).all() for one, other in zip(expected, found, strict=True))
    assert [len(part) for part, _ in read_batches(model, images, 101, 50)] == [34, 34, 33]
    assert not list(diagnose(model, images))  # without labels


class Pairs(paddle.io.Dataset):
    """Images and labels one by one."""

    def __init__(self, images, labels):
        super().__init__()
        self.pairs = list(zip(images, labels, strict=True))

    def __getitem__(self, place):
        return self.pairs[place]

    def __len__(self):
        return len(self.pairs)


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (lambda x, y: (x.astype("uint8"), y), DataError, r"data: uint8 \[200, 3, 16, 16\]: expected floats \[N, ...\]"),
        (lambda x, y: [[x.astype("int64"), y]], DataError, "data: int64 .*normalised as in training"),
        (lambda x, y: Pairs(x.astype("uint8"), y), DataError, r"data: uint8 \[100, 3, 16, 16\]: expected floats"),
        (lambda x, y: (x, y[:5]), DataError, "200 images have 5 labels"),
        (lambda x, y: (x, y.astype("float32")), DataError, "labels are float32: expected integers"),
        (lambda x, y: [[x, y.astype("float32")]], DataError, "labels are float32: expected integers"),
        (lambda x, y: [], DataError, "data has no images"),
        (lambda x, y: [[x, y, y]], DataError, "1 inputs and 2 labels"),
        (
            lambda x, y: [[x[:9], y[:9]], [x[:9, :, :8], y[:9]]],
            DataError,
            "batch 1 is .*, the first is .* one size",
        ),
        (lambda x, y: (x.transpose(0, 2, 3, 1), y), DataError, r"Conv2D, expects float32 \[N, 3, H, W\], and finds"),
        (lambda x, y: [x.transpose(0, 2, 3, 1)], DataError, r"data: float32 \[100, 16, 16, 3\]: stem.0, a Conv2D"),
        (lambda x, y: x[:, :, 0], DataError, r"stem.0, a Conv2D, expects .* finds float32 \[100, 3, 16\]"),
        (lambda x, y: None, RecipeError, "needs data"),
        (lambda x, y: 5, TypeError, "data: of type int: expected an array, a pair"),
        (lambda x, y: "images/", TypeError, "data: of type str: expected an array, a pair"),
    ],
)
def test_data_that_cannot_be_is_refused_in_a_line(model, seen, data, error, text):
    with pytest.raises(error, match=text) as refused:
        diagnose(model, data(*seen))
    assert str(refused.value).startswith("diagnose: ") and "\n" not in str(refused.value)


def test_test_data_that_cannot_be_are_named(model, seen):
    with pytest.raises(DataError, match=r"^diagnose: test_data: float32 \[67, 16, 16, 3\]: stem.0"):
        diagnose(model, seen, test_data=seen[0].transpose(0, 2, 3, 1), batch_size=67)


def test_labels_need_logits():
    class Two(nn.Layer):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1D(4)

        def forward(self, x):
            return self.norm(x), x

    with pytest.raises(DataError, match="gives a tuple, not logits: leave labels out"):
        diagnose(Model(Two()), (np.ones((3, 4), np.float32), np.zeros(3, np.int64)))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"images": 0}, RecipeError, "images = 0: must be a whole number, at least 1"),
        ({"batch_size": 1.5}, RecipeError, "batch_size = 1.5: must be a whole number"),
        ({"training": {"batch_size": 8}}, TypeError, r"training is a dict: expected a Training, such as Training\("),
        ({"rules": None}, TypeError, "rules is a NoneType: expected a sequence of rules, such as "),
        ({"rules": "dead-scale"}, TypeError, "rules is a str: expected a sequence of rules, such as "),
        ({"rules": ["dead-scale"]}, TypeError, r"rules\[0\] is a str: expected a rule, such as those of "),
    ],
)
def test_arguments_that_cannot_be_are_refused(model, seen, options, error, text):
    with pytest.raises(error, match=f"^diagnose: {text}"):
        diagnose(model, seen, **options)


def test_networks_that_cannot_be_are_refused(model, seen):
    with pytest.raises(TypeError, match=r"make paddle.Model\(network\)"):
        diagnose(model.network, seen)
    with pytest.raises(RecipeError, match="diagnose: the network has no batch norm"):
        diagnose(Model(nn.Linear(4, 2)), np.zeros((3, 4), np.float32))


def test_a_run_is_looked_at_with_its_recipe_and_its_validation_images(small_cifar, tmp_path):
    decays = {"optimizer.weight_decay": 1e-4, "optimizer.decay_norm": True, "network.name": "speednet"}
    run = small_fit(small_cifar, tmp_path / "run", epochs=1, batch_size=4, **decays, **{"data.limit": 200})
    for one in (run, run.path):
        found = diagnose(one, data_dir=small_cifar)
        assert found.images == 20  # a tenth of 200
        assert {each.rule for each in found} >= {"tiny-batch", "weight-decay"}
        assert found.of("weight-decay")[0].evidence == {"decay of scale": 1e-4, "decay of shift": 1e-4}
        assert not found.of("starting-values-left") and not found.of("small-last-batch")
    recipe = run.recipe.with_overrides({"data.dir": str(small_cifar)})
    data = open_data(recipe.data, recipe.seed)
    given = diagnose(run.path, BatchLoader(data.val, 30, mean=data.mean, std=data.std))
    assert given.to_dict() == diagnose(run.path, data_dir=small_cifar).to_dict()
    parts = run.manifest["data"]["parts"]
    parts["val"] = {**parts["val"], "sha256": "0" * 64}
    run.update()
    with pytest.raises(DataError, match="not the images that run"):
        diagnose(run.path, data_dir=small_cifar)


def test_the_document_shows_the_rules_as_they_are_and_its_code_runs():
    text = (Path(__file__).parents[2] / "docs" / "batch-norm-diagnosis.md").read_text("utf-8")
    assert rules_table() in text, "put cifar_hapi.batch_norm.rules.rules_table() there anew"
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "batch-norm-diagnosis.md", "exec"), names)
    assert {each.rule for each in names["found"].at_least("warning")} >= {"never-trained", "tiny-batch"}


def test_many_layers_with_the_same_evidence_are_one_line():
    first = Finding("decay", "note", "layer0", (), {"of": 0.1}, "It decays.", "Stop it.", "")
    same = [dataclasses.replace(first, layer=f"layer{place}") for place in range(5)]
    other = dataclasses.replace(same[0], layer="last", evidence={"of": 0.2})

    lines = str(Diagnosis((*same, other), 6, 100, 22)).splitlines()

    assert lines[2:5] == ["note: decay", "    layer0 and 4 other layers: of 0.1", "    last: of 0.2"]
    assert "    layer1: of 0.1" in str(Diagnosis(tuple(same[:3]), 6, 100, 22)).splitlines()


def test_findings_of_a_rule_are_one_block_under_the_gravest():
    grave = Finding("lag", "warning", "a", (), {"off": 0.6}, "It lags.", "Mend it.", "")
    mild = [dataclasses.replace(grave, severity="note", layer=name) for name in "bcde"]
    other = dataclasses.replace(grave, rule="dead", severity="note")

    lines = str(Diagnosis((grave, other, *mild), 6, 100, 22)).splitlines()

    assert lines[2:7] == [
        "warning: lag",
        "    a: off 0.6",
        "    note: b and 3 other layers: off 0.6",
        "    It lags.",
        "    -> Mend it.",
    ]
    assert lines[8:10] == ["note: dead", "    a: off 0.6"]
