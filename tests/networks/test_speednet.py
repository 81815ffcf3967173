import re

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from cifar_hapi.networks.speednet import ResidualPair, speednet


def documented(column, network=speednet):
    """Width to number, as the table in the docstring of `network` has it."""
    rows = re.findall(r"^ *(\d+) +([\d,]+) +([\d,]+)$", network.__doc__, re.MULTILINE)
    return {int(row[0]): int(row[column].replace(",", "")) for row in rows}


def multiply_adds(network):
    """Of convolutions and linear layers, for one 32x32 image."""
    counts = []

    def count(layer, _inputs, output):
        pixels = int(np.prod(output.shape)) // layer.weight.shape[0] if output.ndim == 4 else 1
        counts.append(pixels * int(np.prod(layer.weight.shape)))

    for layer in network.sublayers():
        if isinstance(layer, paddle.nn.Conv2D | paddle.nn.Linear):
            layer.register_forward_post_hook(count)
    network(paddle.zeros([1, 3, 32, 32]))
    return sum(counts)


@pytest.mark.parametrize("width", [64, 16])
def test_the_documented_costs_are_right(width):
    network = speednet(width=width)
    trained = sum(int(np.prod(p.shape)) for p in network.parameters() if not p.stop_gradient)
    assert trained == documented(1)[width]
    assert multiply_adds(network) == documented(2)[width]


def test_the_relu_after_a_residual_pair_changes_neither_output_nor_gradient():
    paddle.seed(0)
    pair = ResidualPair(4, "NCHW")
    source = paddle.randn([2, 4, 6, 6])
    results = []
    for forward in (pair, lambda x: pair.second(pair.first(x)) + x):
        before = source.clone().detach()
        before.stop_gradient = False
        y = forward(F.relu(before))
        (y * paddle.arange(6, dtype="float32")).sum().backward()
        results.append((y.numpy(), before.grad.numpy()))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-6)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-5)


def test_pools_take_a_32x32_image_to_4x4():
    network = speednet(width=2)
    sides = []
    for name in ("stem", "stage1", "stage2", "stage3"):
        network[name].register_forward_post_hook(lambda _layer, _in, y: sides.append(y.shape[2:]))
    network(paddle.zeros([1, 3, 32, 32]))
    assert [list(side) for side in sides] == [[32, 32], [16, 16], [8, 8], [4, 4]]
