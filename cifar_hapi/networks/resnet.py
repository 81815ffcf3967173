"""Residual networks of He et al. 2015 (arXiv 1512.03385): CIFAR form, its plain twins, and ImageNet form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import paddle
from paddle import nn

from cifar_hapi.errors import RecipeError
from cifar_hapi.networks.layers import (
    Classifier,
    ConvNorm,
    DataFormat,
    GlobalAveragePool,
    MaxPool,
    Norm,
    PadShortcut,
    ResidualJoin,
)

Shortcut = Literal["A", "B"]


def cifar_resnet(
    depth: int,
    num_classes: int = 10,
    width: int = 16,
    shortcut: Shortcut = "A",
    norm: Norm = "batch",
    data_format: DataFormat = "NCHW",
) -> nn.Sequential:
    """ResNet of section 4.2: 6n+2 layers, three stages of n basic blocks with `width` * 1, 2, 4 channels.

    shortcut: where the size changes, "A" subsamples and pads with zeros, "B" projects with a 1x1 convolution. norm:
    "none" leaves batch norm out.
    """
    return _cifar(partial(BasicBlock, shortcut=shortcut), depth, num_classes, width, data_format, norm)


def cifar_plain(
    depth: int, num_classes: int = 10, width: int = 16, norm: Norm = "batch", data_format: DataFormat = "NCHW"
) -> nn.Sequential:
    """The twin of `cifar_resnet` without shortcuts; has the same state dict as the one with option A."""
    return _cifar(PlainBlock, depth, num_classes, width, data_format, norm)


def imagenet_resnet(
    depth: Literal[18, 34, 50],
    num_classes: int = 10,
    width: int = 64,
    stem: Literal["cifar", "imagenet"] = "cifar",
    data_format: DataFormat = "NCHW",
) -> nn.Sequential:
    """ResNet of table 1: four stages with `width` * 1, 2, 4, 8 channels (times 4 in depth 50), option B.

    stem: "cifar" is a 3x3 convolution that keeps the size, "imagenet" a 7x7 of stride 2 and a max-pool, which
    together quarter it. Bottlenecks (depth 50) have the stride on their 3x3, as in paddle.vision.
    """
    block, counts = {
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
    }[depth]
    expansion = 4 if block is Bottleneck else 1
    channels = [width * factor * expansion for factor in (1, 2, 4, 8)]
    return nn.Sequential(
        *{"cifar": _cifar_stem, "imagenet": _imagenet_stem}[stem](width, data_format),
        *_stages(block, width, channels, counts, data_format),
        ("pool", GlobalAveragePool(data_format)),
        ("head", Classifier(channels[-1], num_classes)),
    )


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        data_format: DataFormat,
        shortcut: Shortcut = "B",
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.first = ConvNorm(in_channels, out_channels, 3, stride, data_format=data_format, norm=norm)
        self.second = ConvNorm(out_channels, out_channels, 3, activation=None, data_format=data_format, norm=norm)
        self.shortcut = _shortcut(shortcut, in_channels, out_channels, stride, data_format, norm)
        self.join = ResidualJoin(data_format)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.join(self.second(self.first(x)), self.shortcut(x))


class Bottleneck(nn.Layer):
    """1x1, 3x3 and 1x1 convolutions, the first two a quarter as wide, and an option B shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, data_format: DataFormat) -> None:
        super().__init__()
        inner = out_channels // 4
        self.first = ConvNorm(in_channels, inner, 1, data_format=data_format)
        self.second = ConvNorm(inner, inner, 3, stride, data_format=data_format)
        self.third = ConvNorm(inner, out_channels, 1, activation=None, data_format=data_format)
        self.shortcut = _shortcut("B", in_channels, out_channels, stride, data_format)
        self.join = ResidualJoin(data_format)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.join(self.third(self.second(self.first(x))), self.shortcut(x))


class PlainBlock(nn.Layer):
    """Two 3x3 convolutions with nothing around them."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, data_format: DataFormat, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.first = ConvNorm(in_channels, out_channels, 3, stride, data_format=data_format, norm=norm)
        self.second = ConvNorm(out_channels, out_channels, 3, data_format=data_format, norm=norm)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.second(self.first(x))


Block = Callable[[int, int, int, DataFormat], nn.Layer]  # in_channels, out_channels, stride, data_format
Named = tuple[str, nn.Layer]


def _cifar(
    block: Callable[..., nn.Layer], depth: int, num_classes: int, width: int, data_format: DataFormat, norm: Norm
) -> nn.Sequential:
    count, remainder = divmod(depth - 2, 6)
    if count < 1 or remainder:
        raise RecipeError(f"depth = {depth!r}: a CIFAR ResNet has 6n+2 layers; take 8, 14, 20, 26, ...")
    channels = [width * factor for factor in (1, 2, 4)]
    return nn.Sequential(
        *_cifar_stem(width, data_format, norm),
        *_stages(partial(block, norm=norm), width, channels, (count,) * 3, data_format),
        ("pool", GlobalAveragePool(data_format)),
        ("head", Classifier(channels[-1], num_classes)),
    )


def _cifar_stem(width: int, data_format: DataFormat, norm: Norm = "batch") -> list[Named]:
    return [("stem", ConvNorm(3, width, 3, data_format=data_format, norm=norm))]


def _imagenet_stem(width: int, data_format: DataFormat) -> list[Named]:
    return [
        ("stem", ConvNorm(3, width, 7, stride=2, data_format=data_format)),
        ("stem_pool", MaxPool(3, stride=2, padding=1, data_format=data_format)),
    ]


def _stages(
    block: Block, in_channels: int, channels: list[int], counts: tuple[int, ...], data_format: DataFormat
) -> Iterator[Named]:
    """stage1, stage2, ...; all but the first begin by halving the size."""
    for number, (out_channels, count) in enumerate(zip(channels, counts, strict=True), start=1):
        stride = 1 if number == 1 else 2
        first = block(in_channels, out_channels, stride, data_format)
        others = (block(out_channels, out_channels, 1, data_format) for _ in range(count - 1))
        yield f"stage{number}", nn.Sequential(first, *others)
        in_channels = out_channels


def _shortcut(
    option: Shortcut, in_channels: int, out_channels: int, stride: int, data_format: DataFormat, norm: Norm = "batch"
) -> nn.Layer:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    if option == "A":
        return PadShortcut(in_channels, out_channels, stride, data_format)
    if option == "B":
        return ConvNorm(in_channels, out_channels, 1, stride, activation=None, data_format=data_format, norm=norm)
    raise RecipeError(f"shortcut = {option!r} is not possible; take 'A' or 'B'")
