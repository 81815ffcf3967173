"""Which engine a network runs on, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle

from cifar_hapi.engine import execution, onednn, winograd
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
    tiles = " with AMX" if onednn.multiplies_tiles() else ""
    return Availability(True, f"oneDNN {version}{tiles}{_without_winograd()}", native_bfloat16=not _why_no_bfloat16())


def use_engine(network: Any, engine: str, precision: str, device: str) -> EngineChoice:
    """Make `network` run on `engine`: native, onednn, or `auto`, which is onednn where that is possible.

    precision: the lowest that is allowed, "float32", "bfloat16" or "float16". bfloat16 is used where the CPU computes
    it natively, float16 never. Raises RecipeError, naming what is missing, for an engine that is asked for by name
    and cannot be had.
    """
    execution.restore(network)
    if engine == "native":
        return EngineChoice("native", "float32", "as the recipe says" + _unused("native", precision, device))
    found = onednn_availability(device)
    dtype: onednn.Dtype = "bfloat16" if precision == "bfloat16" and found.native_bfloat16 else "float32"
    if found.usable and execution.accelerate(network, dtype):
        unused = "" if dtype == precision else _unused("onednn", precision, device)
        return EngineChoice("onednn", dtype, found.why + unused)
    why = "no layer of this network is one that the oneDNN engine knows" if found.usable else found.why
    if engine == "onednn":
        raise RecipeError(f"engine = 'onednn': {why}")
    return EngineChoice("native", "float32", why + _unused("native", precision, device))


def accelerate(network: paddle.nn.Layer, precision: str = "float32") -> EngineChoice:
    """Make any network, not only one of this package, run on the engine where that is possible, from now on.

    It stays what it was: parameters, running statistics, `state_dict`, optimisers and hooks are Paddle's own, and a
    `paddle.Model` is made of it as ever. What the engine doesn't know in it runs natively. precision: the lowest that
    is allowed, "float32" or "bfloat16". How `forward` passes feature maps from layer to layer is looked at once for
    each state of its layers, that is modes, hooks, sub-layers, and attributes that are numbers, truth values or text:
    it must depend on nothing else.

    A forward pass has one backward pass, without gradients of gradients; `paddle.grad` with respect to some of what
    has a gradient fails in Paddle (freeze the others, or use `backward`); and `paddle.jit.to_static` and `save` need
    `cifar_hapi.engine.restore(network)` first, without which they fail, not always saying so. Results are the same,
    bit for bit, for the same number of threads; another number rounds differently.

    Returns which engine it is, in which precision, and why. Raises TypeError for what is no `paddle.nn.Layer`, such as
    a `paddle.Model`, and RecipeError for another word as precision.
    """
    if not isinstance(network, paddle.nn.Layer):
        where = ": model.network" if isinstance(network, paddle.Model) else ""
        raise TypeError(f"accelerate: a {type(network).__name__} is no paddle.nn.Layer; give it the network{where}")
    if precision not in ("float32", "bfloat16"):
        raise RecipeError(f"precision {precision!r}: expected 'float32' or 'bfloat16'")
    apply_settings()
    return use_engine(network, "auto", precision, str(paddle.get_device()))


def _without_winograd() -> str:
    """What float32 goes without; "" where the package was compiled as a whole."""
    if winograd.available():
        return ""
    return " without Winograd convolutions: there was no C compiler when cifar-hapi was installed"


def _unused(engine: str, allowed: str, device: str) -> str:
    """Why `engine` is in float32 although less is allowed; "" if it isn't, or on a GPU, where Paddle casts."""
    if allowed == "float32" or not device.startswith("cpu"):
        return ""
    if engine == "native":
        return "; Paddle's own kernels compute in float32 on a CPU"
    if allowed == "float16":
        return "; oneDNN is used in float32 and bfloat16, not in float16"
    return f"; {_why_no_bfloat16()}"


def _why_no_bfloat16() -> str:
    """Why oneDNN is not used in bfloat16 on this CPU; "" where it can be."""
    if not onednn.native_bfloat16():
        return "this CPU does not compute bfloat16 natively"
    different = disagreement("bfloat16")
    return f"bfloat16 failed the self-check: {different}" if different else ""
