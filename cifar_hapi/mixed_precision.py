"""Mixed precision on a GPU, by Paddle's automatic casts (AMP, level O1)."""

from __future__ import annotations

from typing import Any

import paddle

from cifar_hapi.recipe import Precision

_CAPABILITY = {"bfloat16": (8, 0), "float16": (7, 0)}  # below it, paddle.amp.auto_cast warns and does nothing


def gpu_precision(allowed: Precision, device: str) -> Precision:
    """`allowed`, where `device` is a GPU that computes in it; else float32."""
    if allowed == "float32" or not device.startswith("gpu"):
        return "float32"
    capability = tuple(paddle.device.cuda.get_device_capability(device))
    return allowed if capability >= _CAPABILITY[allowed] else "float32"


def use_mixed_precision(network: paddle.nn.Layer, allowed: Precision, device: str) -> Precision:
    """Run the forward pass of `network` in `gpu_precision(allowed, device)` from now on; which one that is.

    Convolutions and matrix products then take 16-bit inputs, in training, evaluation and prediction alike. Parameters,
    batch-norm statistics, the network's outputs, and so loss, metrics and updates, are float32 as ever. Training in
    float16 needs a loss scale, too: `Model.prepare(..., amp_configs="O1")`.
    """
    precision = gpu_precision(allowed, device)
    if precision != "float32":
        _autocast(network, precision)
    return precision


class GradScaler(paddle.amp.GradScaler):
    """`paddle.amp.GradScaler` with the same rule for its scale, but without a word.

    Paddle's own prints a line at each overflow, and with NumPy 2.4 that line is a TypeError (Paddle 3.3.1).
    """

    _decr_count: int
    _incr_count: int
    _scale: Any

    def _update(self) -> None:  # private, as all that it uses: what `minimize` calls after an update was made or not
        overflow = bool(self._found_inf)
        self._decr_count = self._decr_count + 1 if overflow else 0
        self._incr_count = 0 if overflow else self._incr_count + 1
        if self._decr_count == self._decr_every_n_nan_or_inf:
            self._scale, self._decr_count = self._scale * self._decr_ratio, 0
        if self._incr_count == self._incr_every_n_steps:
            self._scale, self._incr_count = self._scale * self._incr_ratio, 0


def _autocast(network: paddle.nn.Layer, precision: Precision) -> None:
    # Here and not by Paddle's adapter, which knows float16 alone, and knows it in training only.
    forward = network.forward

    def forward_in_mixed_precision(images: Any) -> Any:
        with paddle.amp.auto_cast(level="O1", dtype=precision):
            outputs = forward(images)
        return outputs.astype("float32")

    network.forward = forward_in_mixed_precision
