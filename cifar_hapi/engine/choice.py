"""Which engine a network runs on, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle

from cifar_hapi.engine import execution, onednn
from cifar_hapi.engine.self_check import disagreement
from cifar_hapi.errors import RecipeError
from cifar_hapi.runtime import apply_settings


@dataclass(frozen=True)
class Availability:
    """Whether the oneDNN engine can be used: `why` it can't, or which version it is; `native_bfloat16`: by the CPU."""

    usable: bool
    why: str
    native_bfloat16: bool = False


@dataclass(frozen=True)
class EngineChoice:
    """What a network runs on: `engine` is native or onednn; `precision` that of its convolutions; `why`, a clause."""

    engine: str
    precision: str
    why: str


def onednn_availability(device: str = "cpu") -> Availability:
    """Whether networks on `device` can run on the oneDNN of Paddle's wheel; the first call runs a self-check."""
    if not device.startswith("cpu"):
        return Availability(False, f"it runs on a CPU, not on {device}")
    try:
        version = onednn.version()
        different = disagreement("float32")
    except (onednn.OneDNNError, AttributeError, OSError) as error:  # not there, or not the functions that are needed
        return Availability(False, str(error))
    if different:
        return Availability(False, f"oneDNN {version} failed the self-check: {different}")
    bfloat16 = onednn.native_bfloat16() and disagreement("bfloat16") is None
    return Availability(True, f"oneDNN {version}", bfloat16)


def use_engine(network: Any, engine: str, precision: str, device: str) -> EngineChoice:
    """Make `network` run on `engine`: native, onednn, or `auto`, which is onednn where that is possible.

    precision: the lowest that is allowed. bfloat16 is used where the CPU computes it natively. Raises RecipeError,
    naming what is missing, for an engine that is asked for by name and cannot be had.
    """
    execution.restore(network)
    if engine == "native":
        return EngineChoice("native", "float32", "as the recipe says")
    found = onednn_availability(device)
    dtype: onednn.Dtype = "bfloat16" if precision == "bfloat16" and found.native_bfloat16 else "float32"
    if found.usable and execution.accelerate(network, dtype):
        return EngineChoice("onednn", dtype, found.why)
    why = "no layer of this network is one that the oneDNN engine knows" if found.usable else found.why
    if engine == "onednn":
        raise RecipeError(f"engine = 'onednn': {why}")
    return EngineChoice("native", "float32", why)


def accelerate(network: paddle.nn.Layer, precision: str = "float32") -> EngineChoice:
    """Make any network, not only one of this package, run on the engine where that is possible, from now on.

    It stays what it was: parameters, running statistics, `state_dict`, optimisers and hooks are Paddle's own, and a
    `paddle.Model` is made of it as ever. What the engine doesn't know in it runs natively. precision: the lowest that
    is allowed, "float32" or "bfloat16". How `forward` passes feature maps from layer to layer is looked at once for
    each state of its layers, that is modes, hooks, sub-layers, and attributes that are numbers, truth values or text:
    it must depend on nothing else.

    A forward pass has one backward pass, without gradients of gradients; `paddle.grad` with respect to some of what
    has a gradient fails in Paddle (freeze the others, or use `backward`); and `paddle.jit` needs `restore(network)`
    first. Results are the same, bit for bit, for the same number of threads; another number rounds differently.

    Returns which engine it is, in which precision, and why. Raises RecipeError for another word as precision.
    """
    if precision not in ("float32", "bfloat16"):
        raise RecipeError(f"precision {precision!r}: expected 'float32' or 'bfloat16'")
    apply_settings()
    return use_engine(network, "auto", precision, str(paddle.get_device()))
