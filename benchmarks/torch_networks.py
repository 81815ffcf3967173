"""The networks of cifar_hapi.networks.resnet in PyTorch: the same layers in the same order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.worker import Unavailable


def build_network(name: str) -> nn.Sequential:
    """resnet20, 32, 44, 56 or 110 in CIFAR form with option A, or resnet18 or 34 with CIFAR stem and option B.

    Raises Unavailable for any other.
    """
    if name not in ("resnet18", "resnet34", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"):
        raise Unavailable(f"{name} is not written in PyTorch here")
    depth = int(name.removeprefix("resnet"))
    if depth in (18, 34):
        return _network((64, 128, 256, 512), (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3), pads=False)
    return _network((16, 32, 64), ((depth - 2) // 6,) * 3, pads=True)


class ConvNorm(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, relu: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return F.relu(x, inplace=True) if self.relu else x


class PadShortcut(nn.Module):
    def __init__(self, new_channels: int, stride: int):
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, pads: bool):
        super().__init__()
        self.first = ConvNorm(in_channels, out_channels, 3, stride)
        self.second = ConvNorm(out_channels, out_channels, 3, relu=False)
        if in_channels == out_channels and stride == 1:
            self.shortcut: nn.Module = nn.Identity()
        elif pads:
            self.shortcut = PadShortcut(out_channels - in_channels, stride)
        else:
            self.shortcut = ConvNorm(in_channels, out_channels, 1, stride, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(x))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


def _network(channels: tuple[int, ...], counts: tuple[int, ...], pads: bool) -> nn.Sequential:
    layers: list[nn.Module] = [ConvNorm(3, channels[0], 3)]
    in_channels = channels[0]
    for stage, (out_channels, count) in enumerate(zip(channels, counts, strict=True)):
        for block in range(count):
            layers.append(BasicBlock(in_channels, out_channels, 2 if stage and not block else 1, pads))
            in_channels = out_channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, 10))
