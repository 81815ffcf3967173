"""What a network is given and does not take, told in a line instead of by Paddle's kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn

from callbacks.paddle_model import input_shape

_REFUSALS = (ValueError, TypeError, RuntimeError, AssertionError, IndexError)  # as Paddle's layers and kernels raise


class UnfitInput(ValueError):
    """What a network does not take: its type and shape, which layer refuses it, and what that expects."""


def output_of(network: nn.Layer, inputs: Sequence[paddle.Tensor]) -> Any:
    """What `network` gives for `inputs`. Raises UnfitInput where it does not take them."""
    try:
        return network(*inputs)
    except _REFUSALS as error:
        raise UnfitInput(_complaint(network, inputs, error)) from error


def _complaint(network: nn.Layer, inputs: Sequence[paddle.Tensor], error: Exception) -> str:
    given, why = ", ".join(map(_described, inputs)), str(error).strip().partition("\n")[0] or type(error).__name__
    at = _refusing_layer(network, inputs)
    if at is None:
        return f"{given}: the network does not take it: {why}"
    name, layer, found = at
    place = f"{name or 'the network'}, a {type(layer).__name__},"
    expected = input_shape(layer)
    if expected is None or not isinstance(found, paddle.Tensor) or _suits(layer, found):
        return f"{given}: {place} does not take it: {why}"
    normalise = "" if _is_float(inputs[0]) else "; normalise images as in training, to float32"
    kind = f"{_dtype(layer.weight)} " if layer.weight is not None else ""
    return f"{given}: {place} expects {kind}[{', '.join(expected)}], and finds {_described(found)}{normalise}"


def _refusing_layer(network: nn.Layer, inputs: Sequence[paddle.Tensor]) -> tuple[str, nn.Layer, Any] | None:
    """Name, layer and first input of the innermost layer that does not come to its end, seen in a second pass."""
    inside: list[tuple[str, nn.Layer, Any]] = []

    def entering(name: str) -> Any:
        return lambda layer, given: inside.append((name, layer, given[0] if given else None))

    def leaving(layer: nn.Layer, given: Any, output: Any) -> None:
        inside.pop()

    with contextlib.ExitStack() as hooks:
        for name, layer in network.named_sublayers(include_self=True):
            hooks.callback(layer.register_forward_pre_hook(entering(name)).remove)
            hooks.callback(layer.register_forward_post_hook(leaving).remove)
        with contextlib.suppress(*_REFUSALS):
            network(*inputs)
    return inside[-1] if inside and not inside[-1][1].sublayers() else None


def _suits(layer: nn.Layer, given: paddle.Tensor) -> bool:
    """Whether type, number of axes and channels are right, so that it must be something else."""
    expected = input_shape(layer) or ()
    shape = [str(size) for size in given.shape]
    if "..." in expected:
        at = 1 if expected[-1] == "..." else -1
        fits = len(shape) > 1 and shape[at] == expected[at]
    else:
        pairs = zip(shape, expected, strict=False)
        fits = len(shape) == len(expected) and all(found == size for found, size in pairs if size.isdecimal())
    return fits and (layer.weight is None or given.dtype == layer.weight.dtype)


def _described(tensor: paddle.Tensor) -> str:
    return f"{_dtype(tensor)} {list(tensor.shape)}"


def _dtype(tensor: paddle.Tensor) -> str:
    return str(tensor.dtype).rpartition(".")[2]


def _is_float(tensor: paddle.Tensor) -> bool:
    return "float" in _dtype(tensor)
