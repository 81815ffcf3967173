"""Gradients of weights from maps laid side by side are those of the maps."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from engine_comparison import assert_agree, both, needs_bfloat16, outcome
from paddle import nn

from cifar_hapi.engine import onednn, strips
from cifar_hapi.engine.onednn import Desc
from cifar_hapi.engine.primitives import Geometry
from cifar_hapi.engine.strips import images_in_a_strip

pytestmark = pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")

SAME = Geometry((3, 3), before=(1, 1), after=(1, 1))


def count_for(width, images=60, dtype="bfloat16", geometry=SAME, tag="nhwc"):
    x = Desc((images, 16, width, width), dtype, tag)
    y = Desc((images, 32, *geometry.result((width, width))), dtype, tag)
    return images_in_a_strip(x, y, geometry)


@pytest.mark.parametrize(
    ("expected", "case"),
    [
        (6, {"width": 8}),
        (15, {"width": 3}),
        (1, {"width": 9}),
        (1, {"width": 8, "images": 11}),
        (7, {"width": 8, "images": 7}),
        (1, {"width": 8, "dtype": "float32"}),
        (1, {"width": 8, "tag": "blocked"}),
        (1, {"width": 8, "geometry": Geometry((3, 3))}),
        (1, {"width": 8, "geometry": Geometry((3, 3), (1, 2), (1, 1), (1, 1))}),
        (1, {"width": 8, "geometry": Geometry((2, 2), before=(0, 1))}),
        (1, {"width": 8, "geometry": Geometry((3, 3), before=(1, 1), after=(1, 1), groups=2)}),
        (8, {"width": 8, "images": 8}),
        (4, {"width": 8, "images": 8, "geometry": Geometry((5, 5), before=(2, 2), after=(2, 2))}),
        (6, {"width": 8, "geometry": Geometry((3, 3), (2, 1), (1, 1), (1, 1))}),
    ],
    ids=str,
)
def test_as_many_images_as_fit_where_padding_between_two_does_for_both(case, expected, monkeypatch):
    monkeypatch.setattr(strips, "multiplies_tiles", lambda: True)
    assert count_for(**case) == expected


def test_without_tiles_maps_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(strips, "multiplies_tiles", lambda: False)
    assert count_for(8) == 1


NETWORKS = {
    "one after the other, of one shape": lambda: nn.Sequential(
        nn.Conv2D(8, 8, 3, padding=1, bias_attr=False), nn.Conv2D(8, 8, 3, padding=1, bias_attr=False)
    ),
    "with bias": lambda: nn.Conv2D(8, 6, 3, padding=1),
    "five wide": lambda: nn.Conv2D(8, 6, 5, padding=2),
    "a row of three": lambda: nn.Conv2D(8, 6, (1, 3), padding=(0, 1)),
    "of single pixels": lambda: nn.Conv2D(8, 6, 1),
    "dilated": lambda: nn.Conv2D(8, 6, 3, padding=2, dilation=2),
    "half as high": lambda: nn.Conv2D(8, 6, 3, stride=(2, 1), padding=1),
}


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_gradients_are_those_without_strips_time_after_time(make, precision, monkeypatch):
    laid = []

    def three(x, y, geometry):
        laid.append(strips._may_be_in_strips(x, y, geometry))
        return 3 if laid[-1] else 1

    monkeypatch.setattr("cifar_hapi.engine.memory.multiplies_tiles", lambda: True)
    monkeypatch.setattr("cifar_hapi.engine.training_program.images_in_a_strip", three)
    paddle.seed(7)
    x = np.random.default_rng(3).standard_normal((6, 8, 7, 7)).astype("float32")

    def twice(network):
        outcome(network, 100 * x)
        network.clear_gradients()
        return outcome(network, x)

    native, fast = both(make(), twice, precision)
    assert all(laid) and laid
    assert_agree(fast, native, 1e-4 if precision == "float32" else 0.02)
