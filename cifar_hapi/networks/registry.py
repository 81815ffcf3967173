"""The networks by name, and what each can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from paddle import nn

from cifar_hapi.errors import RecipeError, did_you_mean
from cifar_hapi.networks.airbench import Airbench
from cifar_hapi.networks.resnet import cifar_plain, cifar_resnet, imagenet_resnet
from cifar_hapi.networks.speednet import speednet


@dataclass(frozen=True)
class Network:
    """How to build a network.

    build: called as build(num_classes=, width=, data_format=, **options), returns the layer.
    summary: one line for a list of networks.
    width: channels of the first convolution, as published.
    options: further keywords of `build`, each with the values it may have; the first is the default.
    """

    build: Callable[..., nn.Layer]
    summary: str
    width: int
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# A network of your own joins with NETWORKS["mine"] = Network(build_mine, "what it is", width=32).
NETWORKS: dict[str, Network] = {
    **{
        f"resnet{depth}": Network(
            partial(cifar_resnet, depth),
            f"{depth} layers, {size} parameters: He et al. 2015, CIFAR form, 16-32-64 channels",
            width=16,
            options={"shortcut": ("A", "B"), "norm": ("batch", "none")},
        )
        for depth, size in {20: "0.27M", 32: "0.46M", 44: "0.66M", 56: "0.85M", 110: "1.7M"}.items()
    },
    **{
        f"plain{depth}": Network(
            partial(cifar_plain, depth),
            f"resnet{depth} without its shortcuts: He et al. 2015",
            width=16,
            options={"norm": ("batch", "none")},
        )
        for depth in (20, 32, 44, 56)
    },
    **{
        f"resnet{depth}": Network(
            partial(imagenet_resnet, depth),  # type: ignore[arg-type]  # a key of a dict is no literal
            f"{depth} layers, {size} parameters: He et al. 2015, ImageNet form, 64-128-256-512 channels",
            width=64,
            options={"stem": ("cifar", "imagenet")},
        )
        for depth, size in {18: "11.2M", 34: "21.3M", 50: "23.5M"}.items()
    },
    "speednet": Network(speednet, "9 layers, 6.6M parameters: Page's ResNet-9, made to train fast", width=64),
    "airbench": Network(
        Airbench,
        "8 layers, 2.0M parameters: Jordan 2024, a whitened start, made to train fast",
        width=64,
        options={"activation": ("relu", "gelu"), "whitening": ("strongest", "all")},
    ),
    "airbench11": Network(
        partial(Airbench, layers=11),
        "11 layers, 2.7M parameters: airbench with a third convolution and a shortcut in each group",
        width=64,
        options={"activation": ("relu", "gelu"), "whitening": ("strongest", "all")},
    ),
}


def network_names() -> list[str]:
    """Names that `build_network` knows; NETWORKS[name].summary describes each in one line."""
    return list(NETWORKS)


def build_network(
    name: str,
    num_classes: int = 10,
    width: int | None = None,
    data_format: str = "NCHW",
    **options: str,
) -> nn.Layer:
    """A freshly initialised network that turns images, float32 [N, 3, H, W], into logits [N, num_classes].

    width: channels of the first convolution, all others in proportion; None is the published width.
    data_format: with "NHWC" images are [N, H, W, 3]; a state dict fits both.
    options: shortcut="A" or "B" for the CIFAR ResNets, norm="batch" or "none" for them and their plain twins;
    stem="cifar" or "imagenet" for resnet18, 34 and 50; activation="relu" or "gelu" and whitening="strongest" or
    "all" for airbench and airbench11.
    Weights follow `paddle.seed`. Raises RecipeError for what cannot be built.
    """
    check_network(name, num_classes, width, data_format, **options)
    network = NETWORKS[name]
    return network.build(
        num_classes=num_classes,
        width=network.width if width is None else width,
        data_format=data_format,
        **options,
    )


def check_network(
    name: str, num_classes: int = 10, width: int | None = None, data_format: str = "NCHW", **options: str
) -> None:
    """Raise RecipeError, naming the key, if `build_network` could not build this."""
    if name not in NETWORKS:
        way_out = did_you_mean(name, NETWORKS) or f"; known are {', '.join(NETWORKS)}"
        raise RecipeError(f"network.name = {name!r} is not a known network{way_out}")
    _check_count("num_classes", num_classes)
    if width is not None:
        _check_count("width", width)
    _check_choice("data_format", data_format, ("NCHW", "NHWC"))
    _check_options(name, NETWORKS[name], options)


def _check_options(name: str, network: Network, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if key not in network.options:
            known = ["num_classes", "width", "data_format", *network.options]
            way_out = did_you_mean(key, known) or f"; it has {', '.join(known)}"
            raise RecipeError(f"network.{key} = {value!r}: {name} has no such key{way_out}")
        _check_choice(key, value, network.options[key])


def _check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RecipeError(f"network.{key} = {value!r} is not possible; take {' or '.join(map(repr, choices))}")


def _check_count(key: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RecipeError(f"network.{key} = {value!r} is not possible; take a whole number of 1 or more")
