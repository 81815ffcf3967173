"""A small network that trains fast: the ResNet-9 of the DAWNBench entries."""

from __future__ import annotations

import paddle
from paddle import nn

from cifar_hapi.networks.layers import (
    Classifier,
    ConvNorm,
    DataFormat,
    GlobalMaxPool,
    MaxPool,
    ResidualJoin,
)


def speednet(num_classes: int = 10, width: int = 64, data_format: DataFormat = "NCHW") -> nn.Sequential:
    """ResNet-9 of David Page, "How to train your ResNet" (2018): eight convolutions and one linear layer.

    Parameters and multiply-adds of convolutions and the linear layer for one 32x32 image forward, 10 classes;
    training costs three times as much (input and weight gradients):

    ======  ==========  ==============
    width   parameters  multiply-adds
    ======  ==========  ==============
    64       6,573,120     379,261,952
    16         412,944      24,036,608
    ======  ==========  ==============
    """
    return nn.Sequential(
        ("stem", ConvNorm(3, width, 3, data_format=data_format)),
        ("stage1", _pooled(width, 2 * width, data_format)),
        ("residual1", ResidualPair(2 * width, data_format)),
        ("stage2", _pooled(2 * width, 4 * width, data_format)),
        ("stage3", _pooled(4 * width, 8 * width, data_format)),
        ("residual3", ResidualPair(8 * width, data_format)),
        ("pool", GlobalMaxPool(data_format)),
        ("head", Classifier(8 * width, num_classes, bias=False, scale=0.125)),
    )


class ResidualPair(nn.Layer):
    """Two 3x3 convolutions, both with ReLU, added to the input.

    Page adds without a ReLU after. Output and gradient are the same: what comes in is itself the output of a
    ReLU, so that the sum is never negative.
    """

    def __init__(self, channels: int, data_format: DataFormat) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 3, data_format=data_format)
        self.second = ConvNorm(channels, channels, 3, data_format=data_format)
        self.join = ResidualJoin(data_format)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.join(self.second(self.first(x)), x)


def _pooled(in_channels: int, out_channels: int, data_format: DataFormat) -> nn.Sequential:
    """A convolution that keeps the size, then a pool that halves it."""
    return nn.Sequential(
        ("first", ConvNorm(in_channels, out_channels, 3, data_format=data_format)),
        ("pool", MaxPool(2, data_format=data_format)),
    )
