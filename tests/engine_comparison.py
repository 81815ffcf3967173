"""A network run natively and on the engine, and what came out of each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

from cifar_hapi.engine import onednn
from cifar_hapi.engine.execution import accelerate

needs_bfloat16 = pytest.mark.skipif(
    onednn.library_path() is None or not onednn.native_bfloat16(), reason="this CPU does not compute bfloat16 natively"
)
PRECISIONS = ["float32", pytest.param("bfloat16", marks=needs_bfloat16)]


def both(network: paddle.nn.Layer, use: Callable[[paddle.nn.Layer], Any], dtype: onednn.Dtype = "float32") -> Any:
    """What `use` returns for the network as it is, and for an accelerated copy of it."""
    fast = copy.deepcopy(network)
    assert accelerate(fast, dtype), "nothing of the network runs on the engine"
    return use(network), use(fast)


def outcome(network: paddle.nn.Layer, x: np.ndarray, input_gradient: bool = True) -> dict[str, np.ndarray]:
    """Output, gradients and state after one forward and backward pass of a loss that weighs all outputs differently."""
    source = paddle.to_tensor(x, stop_gradient=not input_gradient)
    output = network(source)
    if not output.stop_gradient:
        weights = np.random.default_rng(5).standard_normal(output.shape).astype("float32")
        (output * paddle.to_tensor(weights)).sum().backward()
    found = {"output": output.numpy()}
    if source.grad is not None:
        found["gradient of the input"] = source.grad.numpy()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            found[f"gradient of {name}"] = parameter.grad.numpy()
    return found | {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def assert_agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    """Each array, in the norm over its values: relative to it, or to 0.01 where all are smaller."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        scale = max(float(np.linalg.norm(value)), 1e-2 * value.size**0.5)
        assert np.linalg.norm(found[name] - value) <= tolerance * scale, name
