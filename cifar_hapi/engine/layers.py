"""What Paddle's layers, and this project's, mean to the engine. The one place that reads their private attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from paddle import nn

from cifar_hapi.engine.primitives import Activation, Geometry, Window
from cifar_hapi.networks.layers import Classifier, GlobalAveragePool, GlobalMaxPool, MaxPool, PadShortcut, ResidualJoin

Kind = Literal["convolution", "norm", "relu", "activation", "pool", "features", "pad", "join", "linear"]


def kind(layer: nn.Layer) -> Kind | None:
    """What `layer` does, None if the engine cannot do it."""
    found, possible = _KINDS.get(type(layer), (None, None))
    if possible is None or not possible(layer):
        return None
    return found


def convolution_geometry(conv: nn.Conv2D) -> Geometry:
    before, after = _padding(conv._padding) or ((0, 0), (0, 0))
    stride, dilation = tuple(conv._stride), tuple(conv._dilation)
    kernel = tuple(conv.weight.shape[2:])
    return Geometry(kernel, stride, before, after, dilation, conv._groups)  # type: ignore[arg-type]


def pool_window(pool: nn.Layer, sides: Sequence[int]) -> Window:
    """What a pool does to a map of these sides, height and width."""
    if isinstance(pool, GlobalAveragePool | GlobalMaxPool | nn.AdaptiveAvgPool2D | nn.AdaptiveMaxPool2D):
        kind: Any = "average" if isinstance(pool, GlobalAveragePool | nn.AdaptiveAvgPool2D) else "max"
        return Window(kind, Geometry((sides[0], sides[1])))
    kernel = _pair(pool.ksize)
    before, after = _padding(pool.padding) or ((0, 0), (0, 0))
    geometry = Geometry(kernel, kernel if pool.stride is None else _pair(pool.stride), before, after)
    if isinstance(pool, nn.MaxPool2D):
        return Window("max", geometry)
    return Window("average" if pool.exclusive else "average with padding", geometry)


def activation(layer: nn.Layer) -> Activation:
    """Which function of a single number a layer of the kind "activation" is."""
    if isinstance(layer, nn.Silu):
        return "silu"
    return "gelu, by tanh" if layer._approximate else "gelu"


def uses_batch_statistics(norm: nn.BatchNorm2D) -> bool:
    """Whether it normalises by the batch, and moves its running statistics."""
    return bool(norm.training if norm._use_global_stats is None else not norm._use_global_stats)


def epsilon(norm: nn.BatchNorm2D) -> float:
    return float(norm._epsilon)


def momentum(norm: nn.BatchNorm2D) -> float:
    """The weight of the old running mean and variance."""
    return float(norm._momentum)


def built_in_activation(norm: nn.Layer) -> str | None:
    """The activation that is a part of the layer, as `paddle.nn.BatchNorm` can have one."""
    return getattr(norm, "_act", None)


def pads_with_zeros(conv: nn.Layer) -> bool:
    """Whether a convolution, of any number of dimensions, puts zeros around what it is given."""
    if conv._padding_mode != "zeros":
        return False
    if isinstance(conv._padding, str):
        return conv._padding.upper() != "VALID"
    return bool(np.any(conv._padding))


def channels_last(layer: nn.Layer) -> bool | None:
    """Whether the layer takes [N, H, W, C], or [N, ..., C]; None if that is all the same to it."""
    if isinstance(layer, nn.AdaptiveMaxPool2D):  # it has no choice
        return False
    if isinstance(layer, nn.BatchNorm):
        return bool(layer._data_layout == "NHWC")
    data_format = getattr(layer, "_data_format", getattr(layer, "data_format", None))
    return None if data_format is None else data_format[1] != "C"


def state(layer: nn.Layer) -> tuple[Any, ...]:
    """What may change in a layer, of which it depends how it passes on what it is called with."""
    present = tuple(name for name, tensor in layer._parameters.items() if tensor is not None)
    switches = tuple(value for value in layer.__dict__.values() if value is None or type(value) in _SWITCHES)
    return switches, has_hooks(layer), present, layer.__dict__.get("forward"), *layer._sub_layers.values()


_SWITCHES = (bool, int, float, str)  # what a forward pass may branch on, `training` among them


def has_hooks(layer: nn.Layer) -> bool:
    return bool(layer._forward_pre_hooks or layer._forward_post_hooks)


def parameter(layer: nn.Layer, name: str) -> Any:
    """The tensor that `layer` holds now under `name`: weight, bias, _mean or _variance; None where it has none."""
    return layer._parameters.get(name)


def _possible_convolution(conv: Any) -> bool:
    plain = conv._padding_mode == "zeros" and _padding(conv._padding) is not None
    return plain and parameter(conv, "weight") is not None  # else something else computes it, such as a weight norm


def _possible_norm(norm: Any) -> bool:
    tensors = [parameter(norm, name) for name in ("weight", "bias", "_mean", "_variance")]
    # Paddle 2.6.2 and 3.3.1 then normalise by the batch, but give gradients as if by the running statistics.
    odd = norm._use_global_stats is False and not norm.training
    return all(tensor is not None for tensor in tensors) and not odd


def _possible_pool(pool: Any) -> bool:
    plain = not pool.ceil_mode and not getattr(pool, "return_mask", False) and getattr(pool, "divisor", None) is None
    return plain and _padding(pool.padding) is not None


def _possible_global_pool(pool: Any) -> bool:
    return pool._output_size in (1, [1, 1], (1, 1)) and not getattr(pool, "_return_mask", False)


def _padding(value: Any) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Padding as Paddle takes it, as ((above, left), (below, right)); None for forms that the engine doesn't know."""
    if isinstance(value, int):
        return (value, value), (value, value)
    if not isinstance(value, list | tuple) or not all(isinstance(each, int) for each in value):
        return None
    if len(value) == 2:
        return (value[0], value[1]), (value[0], value[1])
    return ((value[0], value[2]), (value[1], value[3])) if len(value) == 4 else None


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _always(layer: Any) -> bool:
    return True


_KINDS: dict[type, tuple[Kind, Callable[[Any], bool]]] = {
    nn.Conv2D: ("convolution", _possible_convolution),
    nn.BatchNorm2D: ("norm", _possible_norm),
    nn.ReLU: ("relu", _always),
    nn.GELU: ("activation", _always),
    nn.Silu: ("activation", _always),
    nn.MaxPool2D: ("pool", _possible_pool),
    nn.AvgPool2D: ("pool", _possible_pool),
    nn.AdaptiveAvgPool2D: ("pool", _possible_global_pool),
    nn.AdaptiveMaxPool2D: ("pool", _possible_global_pool),
    MaxPool: ("pool", _possible_pool),
    GlobalAveragePool: ("features", _always),
    GlobalMaxPool: ("features", _always),
    PadShortcut: ("pad", _always),
    ResidualJoin: ("join", _always),
    nn.Linear: ("linear", _always),
    Classifier: ("linear", _always),
}
