"""Weights made on the spot, as others would have saved them."""

from __future__ import annotations

import warnings

import numpy as np
import paddle
from safetensors.numpy import save_file

from cifar_hapi.networks import build_network
from cifar_hapi.pretrained.names import torch_name, vision_name

WIDTH = 4


def tiny_network(num_classes=7, seed=1, name="resnet18"):
    """A ResNet with ImageNet's stem, 4 channels wide, whose batch norm looks trained."""
    paddle.seed(seed)
    network = build_network(name, num_classes=num_classes, width=WIDTH, stem="imagenet")
    rng = np.random.default_rng(seed)
    for key, tensor in network.state_dict().items():
        if tensor.ndim == 1:
            low = -0.5 if key.endswith(("bias", "_mean")) else 0.5
            tensor.set_value(rng.uniform(low, low + 1, tensor.shape).astype("float32"))
    return network


def arrays(network):
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def save_own(network, path):
    save_file(arrays(network), path)


def save_vision(network, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paddle.save({vision_name(name): tensor for name, tensor in network.state_dict().items()}, str(path))


def save_vision_safetensors(network, path):
    save_file({vision_name(name): array for name, array in arrays(network).items()}, path)


def torch_arrays(network):
    """As torchvision lays them out: linear weights [out, in], a counter beside each batch norm."""
    found = {}
    for name, array in arrays(network).items():
        found[torch_name(name)] = np.ascontiguousarray(array.T) if array.ndim == 2 else array
        if name.endswith("._mean"):
            found[torch_name(name).replace("running_mean", "num_batches_tracked")] = np.array(1000)
    return found


def save_torch(network, path):
    save_file(torch_arrays(network), path)


# How each is saved, under which name, and whose names it has.
MAKES = {
    "own safetensors": (save_own, "weights.safetensors", "cifar-hapi"),
    "Paddle's pdparams": (save_vision, "resnet18.pdparams", "paddle.vision"),
    "Paddle's names as safetensors": (save_vision_safetensors, "vision.safetensors", "paddle.vision"),
    "torchvision's safetensors": (save_torch, "resnet18-f37072fd.safetensors", "torchvision"),
}
