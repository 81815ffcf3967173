"""A folded network computes the same with less; what cannot be folded exactly stays and is named."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from toy import batches, toy_model

from callbacks.paddle_model import norm_layers
from cifar_hapi import accelerate, fold_batch_norm
from cifar_hapi.batch_norm.calls import difference
from cifar_hapi.engine.execution import accelerated
from cifar_hapi.errors import CifarHapiError, DataError, RecipeError
from cifar_hapi.networks import build_network, network_names


def trained_like(network, positive=False):
    """The network with other parameters and statistics in each norm, and some negative scales if not `positive`."""
    rng = np.random.default_rng(0)
    for norm in norm_layers(network).values():
        channels = norm._mean.shape[0]
        scale = rng.normal(1, 0.4, channels)
        values = {
            "weight": np.abs(scale) if positive else scale * rng.choice([1, -1], channels, p=[0.8, 0.2]),
            "bias": rng.normal(0, 0.3, channels),
            "_mean": rng.normal(0, 0.5, channels),
            "_variance": rng.uniform(0.3, 3, channels),
        }
        for name in norm.state_dict():
            getattr(norm, name).set_value(values[name].astype("float32"))
    network.eval()
    return network


def images(*shape, seed=5):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def assert_same_outputs(folded, network, *shape):
    """To within 1e-4 of the largest, for other images than those that the folding was checked with."""
    x = paddle.to_tensor(images(*shape, seed=6))
    expected = network(x).numpy()
    np.testing.assert_allclose(folded(x).numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def bits(network):
    return {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}


CASES = [(name, {}, "NCHW") for name in network_names()] + [
    ("resnet20", {"shortcut": "B"}, "NHWC"),
    ("plain20", {}, "NHWC"),
    ("resnet18", {"stem": "imagenet"}, "NHWC"),
    ("resnet50", {}, "NHWC"),
    ("speednet", {}, "NHWC"),
    ("airbench", {}, "NHWC"),
    ("airbench", {"activation": "gelu"}, "NCHW"),
]
each_case = pytest.mark.parametrize(
    ("name", "options", "data_format"), CASES, ids=[" ".join([n, *o.values(), f]) for n, o, f in CASES]
)


@each_case
def test_each_network_loses_all_norms_or_those_but_the_ones_behind_a_max_pool(name, options, data_format):
    network = trained_like(build_network(name, width=4, data_format=data_format, **options))
    shape = (4, 16, 16, 3) if data_format == "NHWC" else (4, 3, 16, 16)
    before = bits(network)
    deep = len(norm_layers(network)) > 40
    found = fold_batch_norm(network, images(2, *shape[1:]) if deep else None)
    behind_a_pool = {f"group{number}.first_norm" for number in (1, 2, 3)} if name.startswith("airbench") else set()
    assert found.kept.keys() == set(norm_layers(found.model)) == behind_a_pool
    assert len(found.folded) + len(found.kept) == len(norm_layers(network))
    assert found.parameters[1] < found.parameters[0] and found.multiply_adds[1] < found.multiply_adds[0]
    assert bits(network) == before
    assert_same_outputs(found.model, network, *shape)


def test_behind_a_max_pool_norms_without_a_negative_scale_are_folded():
    network = trained_like(build_network("airbench", width=4), positive=True)
    found = fold_batch_norm(network)
    assert found.kept == {} and found.folded["group1.first_norm"] == "group1.first"
    assert_same_outputs(found.model, network, 3, 3, 32, 32)


def test_a_network_of_paddle_vision_is_folded():
    network = trained_like(paddle.vision.models.resnet18(num_classes=10))
    found = fold_batch_norm(network)
    assert found.kept == {} and len(found.folded) == 20
    assert found.folded["layer2.0.downsample.1"] == "layer2.0.downsample.0"
    assert_same_outputs(found.model, network, 2, 3, 20, 20)


def test_of_a_model_that_is_not_prepared_comes_one_that_is_not():
    network = trained_like(build_network("resnet20", width=2))
    found = fold_batch_norm(paddle.Model(network))
    assert type(found.model) is paddle.Model
    assert_same_outputs(found.model.network, network, 2, 3, 16, 16)


class Between(nn.Layer):
    """A convolution, a batch norm, and a forward to be written; `kept` is why the norm cannot go."""

    kept = ""

    def __init__(self):
        super().__init__()
        self.conv, self.other, self.norm = nn.Conv2D(3, 4, 3), nn.Conv2D(4, 4, 1), nn.BatchNorm2D(4)


class ReadTwice(Between):
    kept = "others read what is between it and its convolution, too"

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + 0.1 * y


class ConvolvedTwice(Between):
    kept = "the layer before it is called several times"

    def forward(self, x):
        return self.norm(self.conv(x)) + self.conv(x)


class NormalisedTwice(Between):
    kept = "it is called 2 times"

    def forward(self, x):
        return self.norm(self.other(self.norm(self.conv(x))))


class ChangedInPlace(Between):
    kept = "no convolution or linear layer gives it its input directly"

    def forward(self, x):
        return self.norm(F.relu_(self.conv(x)))


class PreActivation(Between):
    kept = "no convolution or linear layer gives it its input directly"

    def forward(self, x):
        y = self.conv(x)
        return y + self.other(F.relu(self.norm(y + 1)))


class NotReached(Between):
    kept = "the forward pass does not reach it"

    def forward(self, x):
        return self.other(self.conv(x))


class Tied(Between):
    kept = "shares its weights with another"

    def __init__(self):
        super().__init__()
        self.twin = nn.Conv2D(3, 4, 3)
        self.twin.weight = self.conv.weight

    def forward(self, x):
        return self.norm(self.conv(x)) + self.twin(x)


class WithHook(Between):
    kept = "it has hooks, or a forward of its own"

    def __init__(self):
        super().__init__()
        self.norm.register_forward_post_hook(lambda layer, inputs, output: 2 * output)

    def forward(self, x):
        return self.norm(self.conv(x))


class Reparametrised(Between):
    kept = "has hooks or a forward of its own"

    def __init__(self):
        super().__init__()
        nn.utils.weight_norm(self.conv)

    def forward(self, x):
        return self.norm(self.conv(x))


class ByTheBatch(Between):
    kept = "it normalises by the batch in evaluation, too"

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2D(4, use_global_stats=False)

    def forward(self, x):
        return self.norm(self.conv(x))


class WithActivation(Between):
    kept = "an activation is a part of it"

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm(4, act="relu")

    def forward(self, x):
        return self.norm(self.conv(x))


class AnotherAxis(Between):
    kept = "its channels are another axis"

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2D(6, data_format="NHWC")

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.mark.parametrize("kind", Between.__subclasses__(), ids=lambda kind: kind.__name__)
def test_what_would_not_be_exact_is_kept_and_said(kind):
    network = trained_like(kind())
    found = fold_batch_norm(network, images(2, 3, 8, 8))
    assert found.folded == {} and kind.kept in found.kept["norm"]
    assert f"kept: norm: {found.kept['norm']}" in str(found)
    assert_same_outputs(found.model, network, 2, 3, 8, 8)


def test_one_that_others_read_does_not_keep_the_rest_from_being_folded():
    network = trained_like(nn.Sequential(ReadTwice(), nn.Conv2D(4, 5, 1), nn.BatchNorm2D(5)))
    found = fold_batch_norm(network)
    assert found.folded == {"2": "1"} and list(found.kept) == ["0.norm"]


IMAGE, ROW, LINE, VOLUME = (2, 4, 9, 9), (2, 4), (2, 4, 9), (2, 4, 5, 5, 5)
FOLDED = {
    "no bias": (IMAGE, [nn.Conv2D(4, 6, 3, bias_attr=False), nn.BatchNorm2D(6)]),
    "bias, groups, stride, padding": (IMAGE, [nn.Conv2D(4, 6, 3, 2, padding=1, groups=2), nn.BatchNorm2D(6)]),
    "depthwise": (IMAGE, [nn.Conv2D(4, 8, 3, groups=4), nn.BatchNorm2D(8)]),
    "no scale": (IMAGE, [nn.Conv2D(4, 6, 3), nn.BatchNorm2D(6, weight_attr=False)]),
    "no shift": (IMAGE, [nn.Conv2D(4, 6, 3), nn.BatchNorm2D(6, bias_attr=False)]),
    "the older BatchNorm": (IMAGE, [nn.Conv2D(4, 6, 3), nn.BatchNorm(6)]),
    "frozen": (IMAGE, [nn.Conv2D(4, 6, 3), nn.BatchNorm2D(6, use_global_stats=True)]),
    "identity between": (IMAGE, [nn.Conv2D(4, 6, 3), nn.Identity(), nn.BatchNorm2D(6)]),
    "reflected borders": (IMAGE, [nn.Conv2D(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2D(6)]),
    "average pool": (IMAGE, [nn.Conv2D(4, 6, 3), nn.AvgPool2D(2, padding=1, exclusive=True), nn.BatchNorm2D(6)]),
    "adaptive average": (IMAGE, [nn.Conv2D(4, 6, 3), nn.AdaptiveAvgPool2D(2), nn.BatchNorm2D(6)]),
    "two norms": (IMAGE, [nn.Conv2D(4, 6, 3), nn.BatchNorm2D(6), nn.BatchNorm2D(6)]),
    "one dimension": (LINE, [nn.Conv1D(4, 6, 3), nn.BatchNorm1D(6)]),
    "three dimensions": (VOLUME, [nn.Conv3D(4, 6, 3, groups=2), nn.BatchNorm3D(6)]),
    "linear": (ROW, [nn.Linear(4, 6), nn.BatchNorm1D(6)]),
    "linear, no bias": (ROW, [nn.Linear(4, 6, bias_attr=False), nn.BatchNorm1D(6)]),
    "linear on the last axis": ((2, 9, 4), [nn.Linear(4, 6), nn.BatchNorm1D(6, data_format="NLC")]),
    "ahead of linear": (ROW, [nn.BatchNorm1D(4), nn.Linear(4, 6)]),
    "ahead of a convolution": (IMAGE, [nn.BatchNorm2D(4), nn.Conv2D(4, 6, 3, bias_attr=False)]),
    "ahead of groups": (IMAGE, [nn.BatchNorm2D(4), nn.Conv2D(4, 6, 3, groups=2, padding="VALID")]),
    "ahead of a depthwise": (IMAGE, [nn.BatchNorm2D(4), nn.Conv2D(4, 8, 3, groups=4)]),
    "ahead of reflected borders": (IMAGE, [nn.BatchNorm2D(4), nn.Conv2D(4, 6, 3, padding=1, padding_mode="reflect")]),
}


@pytest.mark.parametrize(("shape", "layers"), FOLDED.values(), ids=FOLDED)
def test_what_is_exact_is_folded(shape, layers):
    network = trained_like(nn.Sequential(*layers))
    found = fold_batch_norm(network, images(*shape))
    assert found.kept == {} and not norm_layers(found.model)
    assert_same_outputs(found.model, network, *shape)


def average_pool():
    return nn.AvgPool2D(2, padding=1, exclusive=False)


KEPT = {
    "counts zeros around the map": [nn.Conv2D(4, 6, 3), average_pool(), nn.BatchNorm2D(6)],
    "1 of its 6 scales are negative": [nn.Conv2D(4, 6, 3), nn.MaxPool2D(2), nn.BatchNorm2D(6)],
    "pads with zeros": [nn.BatchNorm2D(4), nn.Conv2D(4, 6, 3, padding="SAME")],
    "gives it its input directly": [nn.Conv2D(4, 6, 3), nn.ReLU(), nn.BatchNorm2D(6), nn.ReLU(), nn.Conv2D(6, 1, 1)],
}


@pytest.mark.parametrize(("why", "layers"), KEPT.items(), ids=KEPT)
def test_what_is_inexact_at_a_border_or_for_a_sign_is_kept(why, layers):
    network = trained_like(nn.Sequential(*layers), positive=True)
    if "negative" in why:
        network[2].weight.set_value(np.array([1, 1, -1, 1, 0, 1], "float32"))
    found = fold_batch_norm(network, images(*IMAGE))
    assert found.folded == {} and why in next(iter(found.kept.values()))
    assert_same_outputs(found.model, network, *IMAGE)


def test_ahead_of_a_padded_convolution_a_norm_that_only_scales_is_folded():
    network = trained_like(nn.Sequential(nn.BatchNorm2D(4, bias_attr=False), nn.Conv2D(4, 6, 3, padding=1)))
    network[0]._mean.set_value(np.zeros(4, "float32"))
    found = fold_batch_norm(network, images(*IMAGE))
    assert found.folded == {"0": "1"}
    assert_same_outputs(found.model, network, *IMAGE)


def test_the_counts_are_those_of_the_layers():
    layers = nn.Conv2D(4, 6, 3, groups=2, bias_attr=False), nn.BatchNorm2D(6), nn.Flatten(), nn.Linear(6 * 49, 5)
    found = fold_batch_norm(nn.Sequential(*layers), images(*IMAGE))
    weights, linear = 6 * 2 * 9, 6 * 49 * 5
    assert found.parameters == (weights + 4 * 6 + linear + 5, weights + 6 + linear + 5)
    assert found.multiply_adds == (weights * 49 + 6 * 49 + linear, weights * 49 + linear)


def test_kept_norms_are_affine_in_training_mode_too():
    network = trained_like(PreActivation())
    folded = fold_batch_norm(network, images(2, 3, 8, 8)).model
    folded.train()
    assert_same_outputs(folded, network, 2, 3, 8, 8)
    assert network.norm._use_global_stats is None


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_a_model_becomes_a_model_that_evaluates_the_same(stock):
    model = toy_model(stock)
    model.fit(batches(), epochs=2, verbose=0)
    before = bits(model.network)
    found = fold_batch_norm(model, batches()[0][0])
    assert type(found.model) is type(model) and found.folded == {"1": "0"}
    assert list(found.model.network.state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    one, other = (each.evaluate(batches(), verbose=0) for each in (model, found.model))
    assert one["acc"] == other["acc"] and np.allclose(one["loss"], other["loss"], rtol=1e-5)
    assert bits(model.network) == before
    model.fit(batches(), epochs=1, verbose=0)


def test_a_network_on_the_engine_is_folded_and_the_folded_one_runs_there():
    network = trained_like(build_network("resnet20", width=4))
    if accelerate(network).engine == "native":
        pytest.skip("this Paddle carries no oneDNN")
    folded = fold_batch_norm(network).model
    assert accelerated(network) and not accelerated(folded)
    assert_same_outputs(folded, network, 2, 3, 32, 32)
    assert accelerate(folded).engine == "onednn"
    assert_same_outputs(folded, network, 2, 3, 32, 32)


class LooksAtItsNorm(Between):
    def forward(self, x):
        y = self.norm(self.conv(x))
        return y + 1 if isinstance(self.norm, nn.BatchNorm2D) else y


def test_a_network_that_is_another_without_its_norms_is_refused():
    with pytest.raises(CifarHapiError, match=r"the folded network differs by .*; use it as it was"):
        fold_batch_norm(trained_like(LooksAtItsNorm()))


def test_numbers_that_are_none_are_refused():
    network = trained_like(nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4)))
    network[1]._mean.set_value(np.full(4, np.nan, "float32"))
    with pytest.raises(CifarHapiError, match="the folded network differs by nan"):
        fold_batch_norm(network)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([[1.0, 2.0], [4.0]], 0.0),
        ([[1.0, 1.0], [4.0]], 0.25),
        ([[0.0, 0.0], [0.0]], 1.0),
        ([[1.0, np.nan], [4.0]], np.nan),
        ([[1.0, 2.0]], np.inf),
    ],
)
def test_outputs_are_compared_by_the_largest_of_all(found, expected):
    arrays = [np.array(each) for each in found]
    np.testing.assert_equal(difference(arrays, [np.array([1.0, 2.0]), np.array([4.0])]), expected)


@pytest.mark.parametrize(
    ("network", "x", "error", "message"),
    [
        (nn.Linear(2, 2), None, RecipeError, "the network has no batch norm"),
        (nn.BatchNorm2D(4), [(np.zeros(IMAGE, "float32"), [0, 1])], TypeError, "images is a list: expected one batch"),
        (nn.BatchNorm2D(5), np.zeros(IMAGE, "float32"), DataError, r"images: float32 .* expects float32 \[N, 5, ...\]"),
        (nn.Sequential(nn.BatchNorm2D(4)), None, RecipeError, r"does not take images of \[2, 3, 32, 32\]; give it a"),
        (
            nn.Sequential(nn.BatchNorm2D(4)),
            np.zeros(IMAGE, "uint8"),
            DataError,
            r"uint8 \[2, 4, 9, 9\]: expected floats",
        ),
        ("resnet20", None, TypeError, "a str is neither a paddle.Model nor a paddle.nn.Layer"),
    ],
)
def test_what_cannot_be_is_refused(network, x, error, message):
    with pytest.raises(error, match=message):
        fold_batch_norm(network, x)
