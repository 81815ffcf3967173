"""What batch-norm layers see in a batch of their own, without a trace of it in the training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import paddle
from paddle import nn

from callbacks import random_state
from callbacks.network_input import UnfitInput, output_of
from callbacks.paddle_model import all_axes_but_channels, as_tensors, inputs_and_labels, modes_kept, norm_tensors


def probe(model: Any, norms: dict[str, nn.Layer], batch: Any) -> dict[str, paddle.Tensor]:
    """Of each of `norms` on `batch`: mean and biased variance of its input, and the share of its output that is <= 0.

    One forward pass, in which all is in evaluation mode: each layer sees what it would see when the network is used.
    batch: an array, or inputs first. Returns float32 [3, C] by name, on the device; layers that are not called are not
    in it. Running statistics and other buffers, modes, gradients and random numbers are afterwards what they were.
    Raises UnfitInput for a batch that the network does not take.
    """
    calls: dict[str, list[_Call]] = {}
    with _undisturbed(model.network, list(norms.values())), contextlib.ExitStack() as hooks:
        for name, norm in norms.items():
            hooks.callback(norm.register_forward_post_hook(_noting(calls.setdefault(name, []))).remove)
        inputs = _tensors_of(inputs_and_labels(model, batch)[0])
        try:
            output_of(model.network, inputs)
        except UnfitInput as error:
            raise UnfitInput(f"BatchNormStats: probe: {error}") from error
        return {name: _together(each) for name, each in calls.items() if each}


def _tensors_of(inputs: list[Any]) -> list[paddle.Tensor]:
    try:
        tensors = as_tensors(inputs)
    except (TypeError, ValueError, RuntimeError) as error:  # as paddle.to_tensor raises
        kinds = ", ".join(type(part).__name__ for part in inputs)
        raise UnfitInput(f"BatchNormStats: probe: {kinds}: expected one batch, an array or a list of inputs") from error
    for tensor in tensors:
        if 0 in tensor.shape:
            raise UnfitInput(f"BatchNormStats: probe: {list(tensor.shape)}: holds no images")
    return tensors


_Call = tuple[int, paddle.Tensor, paddle.Tensor, paddle.Tensor]


def _noting(calls: list[_Call]) -> Callable[..., None]:
    """A hook that adds to `calls`: how many values a channel has, their mean, variance and share that is cut."""

    def hook(norm: nn.Layer, inputs: tuple[paddle.Tensor, ...], output: paddle.Tensor) -> None:
        x, y = inputs[0].astype("float32"), output.astype("float32")  # 16 bits are too coarse for a sum
        axes = all_axes_but_channels(norm, x.ndim)
        mean, cut = x.mean(axes, keepdim=True), (y <= 0).astype("float32").mean(axes)
        variance = (x - mean).square().mean(axes)  # x.var() has Paddle 3.3 log a warning of its own
        calls.append((x.size // cut.size, mean.flatten(), variance, cut))

    return hook


def _together(calls: list[_Call]) -> paddle.Tensor:
    """[3, C] over all calls of one layer in the pass, as if they had been one."""
    total = sum(count for count, *_ in calls)
    mean, cut = (sum(call[place] * (call[0] / total) for call in calls) for place in (1, 3))
    variance = sum((variance + (one - mean) ** 2) * (count / total) for count, one, variance, _ in calls)
    return paddle.stack([mean, variance, cut])


@contextlib.contextmanager
def _undisturbed(network: nn.Layer, norms: list[nn.Layer]) -> Iterator[None]:
    """Inside, the network is in evaluation mode and learns nothing; after it, it is as before."""
    # Layers made with use_global_stats=False move their running statistics in evaluation mode, too.
    statistics = [tensor for norm in norms for name, tensor in norm_tensors(norm).items() if name.startswith("running")]
    kept = [(tensor, tensor.clone()) for tensor in (*statistics, *network.buffers())]
    with random_state.undrawn(), modes_kept(network), paddle.no_grad():
        try:
            network.eval()
            yield
        finally:
            for tensor, before in kept:
                paddle.assign(before, tensor)  # in place; set_value() goes by the host in 2.6
