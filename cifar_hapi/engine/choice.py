"""Which engine a network runs on."""

from __future__ import annotations

from typing import Any

from cifar_hapi.engine import onednn
from cifar_hapi.engine.execution import accelerate
from cifar_hapi.errors import RecipeError


def use_engine(network: Any, name: str, precision: onednn.Dtype, device: str) -> str:
    """Make `network` run on the engine called `name`; which one that is.

    `auto` is `native` until the engine is complete. Raises RecipeError, naming what is missing, for an engine that
    cannot be had.
    """
    if name != "onednn":
        return "native"  # in float32: the recipe allows it nothing else
    if not device.startswith("cpu"):
        raise RecipeError(f"engine = 'onednn': runs on a CPU, not on {device}")
    try:
        onednn.library()
    except onednn.OneDNNError as error:
        raise RecipeError(f"engine = 'onednn': {error}") from None
    if not accelerate(network, precision):
        raise RecipeError("engine = 'onednn': does not know all layers of this network")
    return "onednn"
