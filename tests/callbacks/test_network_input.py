"""What a network does not take is told in a line: what it was, which layer refused it, and what that expects."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from callbacks.network_input import UnfitInput, output_of
from callbacks.paddle_model import input_shape


def told(network, *inputs):
    network.eval()
    with pytest.raises(UnfitInput) as refused:
        output_of(network, [paddle.to_tensor(each) for each in inputs])
    assert refused.value.__cause__ is not None
    assert not any(layer._forward_pre_hooks or layer._forward_post_hooks for layer in network.sublayers(True))
    return str(refused.value)


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


LAYERS = [
    (nn.Conv1D(3, 4, 2), ("N", "3", "L"), zeros(2, 4, 9), zeros(2, 3, 9)),
    (nn.Conv2D(4, 4, 2, groups=2), ("N", "4", "H", "W"), zeros(2, 9, 9, 4), zeros(2, 4, 9, 9)),
    (nn.Conv2D(3, 4, 2, data_format="NHWC"), ("N", "H", "W", "3"), zeros(2, 3, 9, 9), zeros(2, 9, 9, 3)),
    (nn.Conv3D(3, 4, 2), ("N", "3", "D", "H", "W"), zeros(2, 3, 9, 9), zeros(2, 3, 4, 4, 4)),
    (nn.Linear(5, 2), ("N", "...", "5"), zeros(2, 4), zeros(2, 7, 5)),
    (nn.BatchNorm1D(3), ("N", "3", "..."), zeros(2, 4), zeros(2, 3)),
    (nn.BatchNorm2D(3), ("N", "3", "..."), zeros(2, 4, 4, 4), zeros(2, 3, 4, 4)),
    (nn.BatchNorm2D(3, data_format="NHWC"), ("N", "...", "3"), zeros(2, 3, 4, 4), zeros(2, 4, 4, 3)),
    (nn.BatchNorm(3), ("N", "3", "..."), zeros(2, 4, 4, 4), zeros(2, 3, 4, 4)),
]


@pytest.mark.parametrize(("layer", "expected", "bad", "good"), LAYERS, ids=[type(each[0]).__name__ for each in LAYERS])
def test_a_layer_says_what_it_expects_and_takes_that(layer, expected, bad, good):
    assert input_shape(layer) == expected
    line = told(nn.Sequential(nn.Identity(), layer), bad)
    kind, shape, found = type(layer).__name__, ", ".join(expected), f"float32 {list(bad.shape)}"
    assert line == f"{found}: 1, a {kind}, expects float32 [{shape}], and finds {found}"
    assert output_of(layer, [paddle.to_tensor(good)]).shape[0] == 2


def test_a_type_is_told_and_what_to_do():
    line = told(nn.Sequential(nn.Conv2D(3, 4, 3)), zeros(2, 3, 8, 8, dtype="uint8"))
    assert line.startswith(
        "uint8 [2, 3, 8, 8]: 0, a Conv2D, expects float32 [N, 3, H, W], and finds uint8 [2, 3, 8, 8]"
    )
    assert line.endswith("; normalise images as in training, to float32")
    assert "finds float64" in told(nn.Linear(3, 2), zeros(2, 3, dtype="float64"))


def test_the_layer_deep_inside_that_a_size_does_not_suit_is_named():
    network = nn.Sequential(nn.Sequential(nn.Conv2D(3, 4, 3), nn.ReLU()), nn.Flatten(), nn.Linear(144, 4))
    assert "2, a Linear, expects float32 [N, ..., 144], and finds float32 [2, 256]" in told(
        network, zeros(2, 3, 10, 10)
    )


class Between(nn.Layer):
    """Fails on its own way between layers, by Paddle or by itself."""

    def __init__(self, fails):
        super().__init__()
        self.layer, self.fails = nn.Linear(3, 3), fails

    def forward(self, x):
        return self.fails(self.layer(x))


def refusing(x):
    raise ValueError("squares only\nmore of it")


@pytest.mark.parametrize(
    ("fails", "end"),
    [
        (refusing, "the network does not take it: squares only"),
        (lambda x: F.linear(x, x), "the network does not take it: (InvalidArgument)"),
    ],
)
def test_what_fails_between_layers_is_told_by_its_first_line(fails, end):
    line = told(Between(fails), zeros(2, 3))
    assert end in line and "\n" not in line


def test_a_layer_that_has_what_it_expects_is_told_with_its_reason():
    line = told(nn.Sequential(nn.Conv2D(3, 4, 3, dilation=2, padding_mode="reflect", padding=4)), zeros(1, 3, 2, 2))
    assert line.startswith("float32 [1, 3, 2, 2]: 0, a Conv2D, does not take it: ")


def test_missing_inputs_are_told():
    class Two(nn.Layer):
        def forward(self, x, y):
            return x + y

    assert "missing 1 required positional argument: 'y'" in told(Two(), zeros(2))


def test_other_errors_are_left_alone():
    def interrupted(x):
        raise ConnectionError("mine")

    with pytest.raises(ConnectionError):
        output_of(Between(interrupted), [paddle.to_tensor(zeros(2, 3))])
