"""Whether this oneDNN computes what Paddle computes, on this machine: a small network is run on both."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import paddle
from paddle import nn

from cifar_hapi.engine import onednn
from cifar_hapi.engine.execution import accelerate, restore
from cifar_hapi.networks.layers import ConvNorm, GlobalAveragePool, PadShortcut, ResidualJoin

_IMAGES = 16  # so many that the second convolution is one by Winograd's algorithm in float32
_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.3}  # relative, in the norm over all values of a tensor


@functools.cache
def disagreement(dtype: onednn.Dtype) -> str | None:
    """What came out differently, None if nothing did. Takes a tenth of a second, once; random states are left alone."""
    state = paddle.get_rng_state()
    try:
        with paddle.utils.unique_name.guard(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Paddle says of every batch norm in training that it trains
            return _compare(dtype)
    finally:
        paddle.set_rng_state(state)


def _compare(dtype: onednn.Dtype) -> str | None:
    paddle.seed(0)
    network = _Network()
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((_IMAGES, 3, 16, 16)).astype("float32"))
    start = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    expected = _results(network, x)
    network.set_state_dict(start)
    if not accelerate(network, dtype):
        return "the network of the self-check could not be traced"
    found = _results(network, x)
    restore(network)
    for name, value in expected.items():
        error = np.linalg.norm(found[name] - value) / (np.linalg.norm(value) + 1e-6)
        if not error < _TOLERANCES[dtype]:
            return f"{name} differs from Paddle's by {error:.1%}"
    return None


def _results(network: nn.Layer, x: paddle.Tensor) -> dict[str, np.ndarray]:
    """What a training step and an evaluation leave behind."""
    network.train()
    network.clear_gradients()
    features = network(x)
    (features * features).mean().backward()
    gradients = {
        f"the gradient of {name}": p.grad.numpy() for name, p in network.named_parameters() if not p.stop_gradient
    }
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    network.eval()
    with paddle.no_grad():
        evaluated = network(x).numpy()
    return {"the training output": features.numpy(), **gradients, **state, "the evaluation output": evaluated}


class _Network(nn.Layer):
    """One of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = ConvNorm(3, 16, 3), ConvNorm(16, 32, 3, 2)
        self.second, self.shortcut = ConvNorm(32, 32, 3, activation=None), PadShortcut(16, 32, 2)
        self.join, self.pool = ResidualJoin(), GlobalAveragePool()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.stem(x)
        return self.pool(self.join(self.second(self.first(x)), self.shortcut(x)))
