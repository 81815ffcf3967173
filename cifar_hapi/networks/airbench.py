"""Small wide networks for speed runs, whose first convolution is a fixed whitening of 2x2 patches."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import paddle
from numpy.lib.stride_tricks import sliding_window_view
from paddle import nn

from cifar_hapi.networks.layers import Classifier, DataFormat, GlobalMaxPool, MaxPool

Activation = Literal["relu", "gelu"]
Whitening = Literal["strongest", "all"]

_PATCH = 2  # the side of a whitened patch
_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}
_COMPONENTS = {"strongest": 8, "all": 12}  # of the patches


class Airbench(nn.Sequential):
    """The network of Jordan 2024 (arXiv 2404.00498).

    A whitening convolution, three groups of two 3x3 convolutions with a pool in each, the largest value of each
    channel, and a linear layer: 8 layers. With 11, each group has a third convolution, and a shortcut around its last
    two. Activations are GELU as published, or ReLU, which is a part of batch norm in the engine. Batch norm forgets
    fast (momentum 0.6) and learns its scale, too: where that is frozen, Paddle gives no gradient for the shift.
    `whitening` "all" is of the 12 principal components of 2x2 patches, 24 filters, as published; "strongest" leaves out
    the four weakest, which are mostly noise: 16 filters, computed in less time.

    Parameters (those that learn) and multiply-adds of convolutions and the linear layer for one 32x32 image forward,
    8 layers, 10 classes, 16 whitening filters, three groups of `width`, 4 `width`, 4 `width` channels:

    ======  ==========  ==============
    width   parameters  multiply-adds
    ======  ==========  ==============
    64       1,967,888     113,626,816
    48       1,109,584      65,656,896
    32         495,504      30,759,872
    ======  ==========  ==============

    Before training, `whiten` is to be called with training images.
    """

    def __init__(
        self,
        num_classes: int = 10,
        width: int = 64,
        data_format: DataFormat = "NCHW",
        activation: Activation = "relu",
        layers: Literal[8, 11] = 8,
        whitening: Whitening = "strongest",
    ) -> None:
        filters, group = 2 * _COMPONENTS[whitening], _Group if layers == 8 else _ResidualGroup
        super().__init__(
            ("whitening", _whitening(filters, data_format)),
            ("activation", _ACTIVATIONS[activation]()),
            ("group1", group(filters, width, data_format, activation)),
            ("group2", group(width, 4 * width, data_format, activation)),
            ("group3", group(4 * width, 4 * width, data_format, activation)),
            ("pool", GlobalMaxPool(data_format)),
            ("head", Classifier(4 * width, num_classes, bias=False, scale=1 / 9)),
        )
        self._channels_last = data_format == "NHWC"

    def whiten(self, images: np.ndarray) -> None:
        """Set the first layer's weights, which stay as they are, by the patches of `images`.

        images: float32 in the network's data format, normalised as in training, some thousand of them.
        """
        channels_last = images if self._channels_last else images.transpose(0, 2, 3, 1)
        components = self.whitening.weight.shape[0] // 2
        self.whitening.weight.set_value(whitening_filters(channels_last, components=components))


def whitening_filters(images: np.ndarray, epsilon: float = 5e-4, components: int = 8) -> np.ndarray:
    """Filters whose answers to the 2x2 patches of `images` are uncorrelated and of variance 1.

    images: float32 [N, H, W, 3]. Gives float32 [2 * components, 3, 2, 2]: the strongest of the 12 principal components
    of the patches (second moments, not centred), each divided by the root of its eigenvalue plus `epsilon`, and then
    their negatives, for the activation that follows.
    """
    patches = sliding_window_view(images, (_PATCH, _PATCH), axis=(1, 2)).reshape(-1, 3 * _PATCH**2)
    moments = (patches.T @ patches / len(patches)).astype(np.float64)
    eigenvalues, vectors = np.linalg.eigh(moments)
    components = (vectors / np.sqrt(eigenvalues + epsilon)).T[::-1][:components].reshape(-1, 3, _PATCH, _PATCH)
    return np.concatenate([components, -components]).astype(np.float32)


def _whitening(filters: int, data_format: DataFormat) -> nn.Conv2D:
    convolution = nn.Conv2D(3, filters, _PATCH, bias_attr=paddle.ParamAttr(), data_format=data_format)
    convolution.weight.stop_gradient = True
    return convolution


class _Group(nn.Layer):
    """Two convolutions, the first with a pool."""

    def __init__(self, in_channels: int, channels: int, data_format: DataFormat, activation: Activation) -> None:
        super().__init__()
        self.first = _convolution(in_channels, channels, data_format)
        self.pool = MaxPool(2, data_format=data_format)
        self.first_norm = _norm(channels, data_format)
        self.first_activation = _ACTIVATIONS[activation]()
        self.second = _convolution(channels, channels, data_format)
        self.second_norm = _norm(channels, data_format)
        self.second_activation = _ACTIVATIONS[activation]()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.inner(self.pooled(x))

    def pooled(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.first_activation(self.first_norm(self.pool(self.first(x))))

    def inner(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.second_activation(self.second_norm(self.second(x)))


class _ResidualGroup(_Group):
    """Three convolutions, with a shortcut around the last two."""

    def __init__(self, in_channels: int, channels: int, data_format: DataFormat, activation: Activation) -> None:
        super().__init__(in_channels, channels, data_format, activation)
        self.third = _convolution(channels, channels, data_format)
        self.third_norm = _norm(channels, data_format)
        self.third_activation = _ACTIVATIONS[activation]()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.pooled(x)
        return self.third_activation(self.third_norm(self.third(self.inner(x))) + x)


def _norm(channels: int, data_format: DataFormat) -> nn.BatchNorm2D:
    return nn.BatchNorm2D(channels, momentum=0.6, data_format=data_format)


def _convolution(in_channels: int, channels: int, data_format: DataFormat) -> nn.Conv2D:
    """Starts as the identity on the first channels; the others uniform in +-1 / sqrt(fan-in)."""
    bound = 1 / math.sqrt(9 * in_channels)
    start = nn.initializer.Uniform(-bound, bound)
    convolution = nn.Conv2D(
        in_channels,
        channels,
        3,
        padding=1,
        weight_attr=paddle.ParamAttr(initializer=start),
        bias_attr=False,
        data_format=data_format,
    )
    same = min(in_channels, channels)
    weights = convolution.weight.numpy().copy()
    weights[:same] = 0
    weights[range(same), range(same), 1, 1] = 1
    convolution.weight.set_value(weights)
    return convolution
