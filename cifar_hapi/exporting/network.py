"""The network as it is exported: float32, channels first, in evaluation mode, and what it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import paddle
from paddle import nn

from cifar_hapi.batch_norm.folding import fold_batch_norm
from cifar_hapi.data.identity import DataIdentity
from cifar_hapi.data.normalisation import normalise
from cifar_hapi.loading import build_declared_network
from cifar_hapi.networks.layers import PadShortcut
from cifar_hapi.run import Run

INPUT, OUTPUT = "images", "logits"
Answer = Callable[[np.ndarray], np.ndarray]  # from the exported model's input to logits, float32 [N, C]


class FromPixels(nn.Layer):
    """`network` for images as they are stored: uint8 [N, H, W, 3] to logits, normalised as `data.normalise` does."""

    def __init__(self, network: nn.Layer, data: DataIdentity) -> None:
        super().__init__()
        self.network = network
        centre = 255 * np.asarray(data.mean, np.float32)
        scale = 1 / (255 * np.asarray(data.std, np.float32))
        self.register_buffer("centre", paddle.to_tensor(centre.reshape(3, 1, 1)))
        self.register_buffer("scale", paddle.to_tensor(scale.reshape(3, 1, 1)))

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        pixels = images.astype("float32").transpose([0, 3, 1, 2])
        return self.network((pixels - self.centre) * self.scale)


class ZeroChannels(nn.Layer):
    """What `PadShortcut` does to [N, C, H, W], without padding.

    Paddle's inference runs `pad` by oneDNN, whose kernel takes the paddings of channels for those of rows and columns
    (Paddle 2.6.2 and 3.3.1: a wrong shape, or a crash).
    """

    def __init__(self, pad: PadShortcut) -> None:
        super().__init__()
        self.stride, self.new_channels = pad.stride, pad.new_channels

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        kept = x[:, :, :: self.stride, :: self.stride]
        new = paddle.zeros_like(kept[:, :1]).expand([-1, self.new_channels, -1, -1])
        return paddle.concat([kept, new], axis=1)


def network_to_export(run: Run, trained: nn.Layer, pixels: np.ndarray, fold_bn: bool, uint8_input: bool) -> nn.Layer:
    """A copy of the run's `trained` network, whatever its data format; `pixels` are what batch norm is folded with."""
    declared = replace(run.recipe.network, data_format="NCHW")
    network = build_declared_network(declared, len(run.data.class_names))
    network.set_state_dict(trained.state_dict())
    network.eval()
    if fold_bn:
        network = fold_batch_norm(network, taken(run, pixels[:2], uint8_input=False)).model
    without_padding(network)
    whole = FromPixels(network, run.data) if uint8_input else network
    whole.eval()
    return whole


def without_padding(network: nn.Layer) -> nn.Layer:
    """`network`, in which `ZeroChannels` now stand for `PadShortcut`s."""
    for layer in network.sublayers(include_self=True):
        for name, child in layer.named_children():
            if isinstance(child, PadShortcut):
                setattr(layer, name, ZeroChannels(child))
    network.eval()  # for the new ones
    return network


def input_spec(run: Run, uint8_input: bool) -> paddle.static.InputSpec:
    """What the exported model takes: any number of images, uint8 [N, H, W, 3] or float32 [N, 3, H, W]."""
    side = run.recipe.data.image_size
    shape, dtype = ([None, side, side, 3], "uint8") if uint8_input else ([None, 3, side, side], "float32")
    return paddle.static.InputSpec(shape, dtype, INPUT)


def taken(run: Run, pixels: np.ndarray, uint8_input: bool) -> np.ndarray:
    """`pixels`, uint8 [N, H, W, 3], as the exported model takes them."""
    return pixels if uint8_input else normalise(pixels, run.data.mean, run.data.std, "NCHW")
