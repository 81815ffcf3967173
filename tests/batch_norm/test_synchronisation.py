"""SyncBatchNorm layers in the place of batch norms, with their tensors; on a CPU, where Paddle has none, an error."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from cifar_hapi import convert_sync_batch_norm, freeze_batch_norm
from cifar_hapi.errors import RecipeError
from cifar_hapi.networks import build_network


@pytest.fixture
def as_if_on_a_gpu(monkeypatch):
    """Layers can be converted anywhere, where the device is not looked at; they only cannot run."""
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")


def test_tensors_names_and_settings_stay(as_if_on_a_gpu):
    network = build_network("airbench", width=4, data_format="NHWC")
    network.group1.first_norm.eval()
    before = {name: id(tensor) for name, tensor in network.state_dict().items()}
    assert convert_sync_batch_norm(network) is network
    norm = network.group1.first_norm
    assert isinstance(norm, nn.SyncBatchNorm) and {type(network.group3.second_norm)} == {nn.SyncBatchNorm}
    assert (norm._momentum, norm._epsilon, norm._data_format, norm.training) == (0.6, 1e-5, "NHWC", False)
    assert network.group2.first_norm.training
    assert {name: id(tensor) for name, tensor in network.state_dict().items()} == before


@pytest.mark.parametrize("absent", ["weight_attr", "bias_attr"])
def test_a_layer_with_scale_or_shift_alone_keeps_it(as_if_on_a_gpu, absent):
    network = nn.Sequential(nn.BatchNorm2D(2, epsilon=1e-3, **{absent: False}))
    (tensor,) = (each for each in network.parameters() if not each.stop_gradient)
    tensor.set_value(np.array([3, 4], "float32"))
    convert_sync_batch_norm(network)
    (kept,) = (each for each in network.parameters() if not each.stop_gradient)
    assert kept is tensor and network[0]._epsilon == 1e-3


def test_a_model_is_converted_too_and_a_layer_that_is_a_batch_norm_is_a_new_one(as_if_on_a_gpu):
    model = paddle.Model(nn.Sequential(nn.BatchNorm1D(2)))
    assert convert_sync_batch_norm(model) is model and isinstance(model.network[0], nn.SyncBatchNorm)
    alone = paddle.Model(nn.BatchNorm1D(2))
    assert isinstance(convert_sync_batch_norm(alone).network, nn.SyncBatchNorm)


def frozen():
    network = nn.Sequential(nn.BatchNorm2D(2))
    freeze_batch_norm(network)
    return network


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (frozen(), "0 has use_global_stats=True, which a SyncBatchNorm cannot have; undo its freezing first"),
        (nn.BatchNorm(2), r"the network is a paddle\.nn\.BatchNorm, which Paddle does not convert"),
    ],
)
def test_what_would_be_lost_is_refused(as_if_on_a_gpu, network, message):
    with pytest.raises(RecipeError, match=message):
        convert_sync_batch_norm(network)


def test_on_a_cpu_it_is_refused_and_nothing_is_changed():
    network = nn.Sequential(nn.BatchNorm2D(2))
    with pytest.raises(RecipeError, match="Paddle has no SyncBatchNorm on a CPU"):
        convert_sync_batch_norm(network)
    assert isinstance(network[0], nn.BatchNorm2D)


@pytest.mark.skipif(paddle.device.is_compiled_with_cuda(), reason="of Paddle for CPUs")
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_paddle_still_has_no_kernel_of_it_on_a_cpu(mode):
    norm = nn.SyncBatchNorm(2)
    getattr(norm, mode)()
    with pytest.raises(RuntimeError, match="kernel `sync_batch_norm` is not registered"):
        norm(paddle.ones([2, 2, 3, 3]))
