"""The layer by itself: with one process it must be what Paddle's batch norm is. See test_trainings.py for several."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from cifar_hapi import Recipe, RecipeError
from cifar_hapi.distributed import ranks
from cifar_hapi.distributed.sync_batch_norm import SyncBatchNorm2D, synchronise, together


def norms(data_format="NCHW", **options):
    """Paddle's, and a synchronised one with the same parameters."""
    paddle.seed(0)
    pair = [
        nn.BatchNorm2D(3, data_format=data_format, **options),
        SyncBatchNorm2D(3, data_format=data_format, **options),
    ]
    for norm in pair:
        norm.weight.set_value(np.array([0.5, -1, 2], np.float32))
        norm.bias.set_value(np.array([0.1, 0, -3], np.float32))
    return pair


def step(norm, images, gradient):
    """One step: the output, and the gradients of images, scale and shift."""
    x = paddle.to_tensor(images, stop_gradient=False)
    with together():
        y = norm(x)
    (y * paddle.to_tensor(gradient)).sum().backward()
    return [each.numpy() for each in (y, x.grad, norm.weight.grad, norm.bias.grad, norm._mean, norm._variance)]


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize("offset", [0, 100])
def test_alone_it_is_paddles_batch_norm(data_format, offset):
    rng = np.random.default_rng(0)
    shape = (5, 3, 4, 7) if data_format == "NCHW" else (5, 4, 7, 3)
    images = (rng.standard_normal(shape) * 2 + offset).astype("float32")
    gradient = rng.standard_normal(shape).astype("float32")
    theirs, ours = (step(norm, images, gradient) for norm in norms(data_format, momentum=0.7, epsilon=1e-3))
    for mine, paddles in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, paddles, rtol=1e-4, atol=1e-5 * (1 + offset))


def test_the_batch_of_others_counts(monkeypatch):
    """Another process with the same images, and with gradients of its own: as if each image were there twice."""
    rng = np.random.default_rng(1)
    images, *gradients = (rng.standard_normal((4, 3, 2, 2)).astype("float32") for _ in range(3))
    plain, ours = norms()
    both = step(plain, np.concatenate([images] * 2), np.concatenate(gradients))
    deviation = np.sqrt(images.var((0, 2, 3), keepdims=True) + 1e-5)
    normal = (images - images.mean((0, 2, 3), keepdims=True)) / deviation

    def with_the_other(tensors):
        others = [2 * each for each in tensors]
        if len(tensors) == 2:  # backwards: the sums of the other's gradients, of scale and shift
            of_shift = gradients[1].sum((0, 2, 3))
            of_scale = (gradients[1] * normal).sum((0, 2, 3))
            others = [tensors[0] + paddle.to_tensor(of_scale), tensors[1] + paddle.to_tensor(of_shift)]
        for tensor, total in zip(tensors, others, strict=True):
            paddle.assign(total, tensor)

    monkeypatch.setattr(ranks, "add_up", with_the_other)
    y, of_x, *_, mean, variance = step(ours, images, gradients[0])
    np.testing.assert_allclose(y, both[0][:4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_x, both[1][:4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, both[4], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, both[5], rtol=1e-4, atol=1e-6)


def test_a_process_may_have_a_single_value(monkeypatch):
    """[1, C, 1, 1] here and -1 elsewhere: Paddle alone would pass it on as it is."""
    other = [paddle.full([3], -1.0, "float64"), paddle.ones([3], "float64"), paddle.ones([1], "float64")]

    def with_the_other(tensors):
        for tensor, more in zip(tensors, other, strict=True):
            paddle.assign(tensor + more, tensor)

    monkeypatch.setattr(ranks, "add_up", with_the_other)
    norm = SyncBatchNorm2D(3)
    with together(), paddle.no_grad():
        y = norm(paddle.full([1, 3, 1, 1], 3.0))  # mean 1, standard deviation 2
    np.testing.assert_allclose(y.numpy().ravel(), [1, 1, 1], rtol=1e-5)


def test_frozen_scale_and_shift_have_no_gradient():
    _, ours = norms()
    ours.weight.stop_gradient = ours.bias.stop_gradient = True
    x = paddle.to_tensor(np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), stop_gradient=False)
    with together():
        ours(x).square().sum().backward()
    assert x.grad is not None and ours.weight.grad is None and ours.bias.grad is None


@pytest.mark.parametrize("where", ["outside", "evaluation", "frozen"])
def test_elsewhere_it_is_plain(where, monkeypatch):
    monkeypatch.setattr(ranks, "add_up", None)
    _, ours = norms(use_global_stats=True if where == "frozen" else None)
    x = paddle.ones([2, 3, 2, 2])
    if where == "outside":
        ours(x)
    else:
        ours.eval() if where == "evaluation" else ours.train()
        with together():
            ours(x)


def test_only_several_processes_have_it_and_names_stay(monkeypatch):
    network = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.BatchNorm1D(4))
    before = network.state_dict()
    synchronise(network)
    assert type(network[1]) is nn.BatchNorm2D
    monkeypatch.setattr(ranks, "count", lambda: 2)
    synchronise(network)
    assert [type(each) for each in network] == [nn.Conv2D, SyncBatchNorm2D, nn.BatchNorm1D]
    assert all(network.state_dict()[name] is tensor for name, tensor in before.items())


@pytest.mark.parametrize("other", [{"network.norm": "none"}, {"network.freeze_norm": True, "network.pretrained": "a"}])
def test_nothing_to_synchronise_is_refused(other):
    with pytest.raises(RecipeError, match=r"network\.sync_batch_norm = True: nothing follows batches"):
        Recipe.load("resnet20", {"network.sync_batch_norm": True, **other})
