"""The gradients of batch norm's scale and shift, which are gone when a step is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle import nn

from callbacks.paddle_model import is_gradient, loss_scale


class NormGradients:
    """Keeps the gradients of one step; `found` has them by layer and parameter, "weight" or "bias", each [C].

    Hooks on the parameters take them in the backward pass: `train_batch` clears them before any callback is called.
    They are the loss's, without weight decay, without a loss scale, and where several batches make up a step, the sum
    up to this one. Frozen parameters, and those that nothing depended on, have none; nor has the other of a layer of
    which one is frozen, as Paddle computes neither then (2.6.2, 3.3.1).
    """

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], paddle.Tensor] = {}
        self._hooks: list[Any] = []

    def listen(self, model: Any, norms: dict[str, nn.Layer]) -> None:
        """Keep those of the step that comes next."""
        for layer, norm in norms.items():
            for name, parameter in (("weight", norm.weight), ("bias", norm.bias)):
                if parameter is not None and not parameter.stop_gradient:
                    self._hooks.append(parameter.register_hook(self._keeping((layer, name), parameter, model)))

    def forget(self) -> None:
        """Those of the step before, and hooks that an error has left."""
        self.stop()
        self.found = {}

    def stop(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _keeping(
        self, key: tuple[str, str], parameter: paddle.Tensor, model: Any
    ) -> Callable[[paddle.Tensor | None], None]:
        def hook(gradient: paddle.Tensor | None) -> None:
            if gradient is None or not is_gradient(gradient):
                return
            with paddle.no_grad():
                before, scale = parameter.grad, loss_scale(model)
                total = gradient.clone() if before is None else gradient + before
                self.found[key] = total if scale is None else total / scale

        return hook
