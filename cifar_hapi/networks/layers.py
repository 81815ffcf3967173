"""The few layers that all networks are made of.

Networks only compose these and leave all arithmetic on feature maps to them, so that an engine that runs
these layers runs every network. Feature maps are [N, C, H, W] in the data format "NCHW" and [N, H, W, C] in
"NHWC"; parameters have the same names, shapes and values in both (convolution weights are [out, in, k, k]).
"""

from __future__ import annotations

import math
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

DataFormat = Literal["NCHW", "NHWC"]
Norm = Literal["batch", "none"]


class ConvNorm(nn.Layer):
    """Convolution, normalisation, and an activation or none.

    norm: "batch", or "none" to see what a network is without it; the convolution then has a bias, which starts at 0.

    The padding is `kernel_size // 2`: an odd kernel keeps the size at stride 1 and halves it, rounding up, at
    stride 2. Weights start as in He et al. 2015 (arXiv 1502.01852): normal with mean 0 and
    std = sqrt(2 / (in_channels * kernel_size**2)); scale 1, shift 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        activation: Literal["relu"] | None = "relu",
        data_format: DataFormat = "NCHW",
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            weight_attr=paddle.ParamAttr(initializer=nn.initializer.KaimingNormal()),
            bias_attr=False if norm == "batch" else None,
            data_format=data_format,
        )
        self.norm = nn.BatchNorm2D(out_channels, data_format=data_format) if norm == "batch" else nn.Identity()
        self.activation = {"relu": nn.ReLU, None: nn.Identity}[activation]()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.activation(self.norm(self.conv(x)))


class ResidualJoin(nn.Layer):
    """relu(y + shortcut), where a residual block's two paths meet.

    Addition is the same in both data formats; `data_format` is there for engines, which lay out memory by it.
    """

    def __init__(self, data_format: DataFormat = "NCHW") -> None:
        super().__init__()
        self.data_format = data_format

    def forward(self, y: paddle.Tensor, shortcut: paddle.Tensor) -> paddle.Tensor:
        return F.relu(y + shortcut)


class PadShortcut(nn.Layer):
    """Shortcut without parameters: every `stride`-th pixel, and zeros for the channels that are new.

    Option A of He et al. 2015 (arXiv 1512.03385, section 4.2). The zeros come after the channels that exist.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, data_format: DataFormat = "NCHW") -> None:
        super().__init__()
        self.new_channels = out_channels - in_channels
        self.stride = stride
        self.data_format = data_format

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        step, new = self.stride, self.new_channels
        if self.data_format == "NCHW":
            return F.pad(x[:, :, ::step, ::step], [0, 0, 0, new, 0, 0, 0, 0])
        return F.pad(x[:, ::step, ::step, :], [0, 0, 0, 0, 0, 0, 0, new])


class MaxPool(nn.MaxPool2D):
    """The largest value in each window; without a stride, windows lie side by side (a remainder is lost)."""

    def __init__(
        self,
        kernel_size: int,
        stride: int | None = None,
        padding: int = 0,
        data_format: DataFormat = "NCHW",
    ) -> None:
        super().__init__(kernel_size, stride, padding, data_format=data_format)


class GlobalAveragePool(nn.Layer):
    """The mean of each channel: a feature map to [N, C]."""

    def __init__(self, data_format: DataFormat = "NCHW") -> None:
        super().__init__()
        self.data_format = data_format

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.adaptive_avg_pool2d(x, 1, data_format=self.data_format).flatten(1)


class GlobalMaxPool(nn.Layer):
    """The largest value of each channel: a feature map to [N, C]."""

    def __init__(self, data_format: DataFormat = "NCHW") -> None:
        super().__init__()
        self.data_format = data_format

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        # One window over all, because paddle.max hands the whole gradient to each of several equal values.
        sides = x.shape[2:] if self.data_format == "NCHW" else x.shape[1:3]
        return F.max_pool2d(x, sides, data_format=self.data_format).flatten(1)


class Classifier(nn.Linear):
    """Features [N, C] to logits [N, num_classes], multiplied by `scale` (default 1).

    Weights start uniform in +-1 / sqrt(in_features), biases at 0: at first, logits are small beside 1.
    """

    def __init__(self, in_features: int, num_classes: int, bias: bool = True, scale: float = 1.0) -> None:
        bound = 1 / math.sqrt(in_features)
        super().__init__(
            in_features,
            num_classes,
            weight_attr=paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound)),
            bias_attr=None if bias else False,
        )
        self.scale = scale

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        logits = F.linear(features, self.weight, self.bias)  # Paddle 2.6 cannot trace super()
        return logits if self.scale == 1 else logits * self.scale
