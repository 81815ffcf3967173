"""What the functions about batch norm are given, checked: networks that have some, and counts."""

from __future__ import annotations

import numbers
from typing import Any

from paddle import nn

from callbacks.paddle_model import network_of, norm_layers
from cifar_hapi.errors import RecipeError


def batch_norms(model: Any, asker: str) -> dict[str, nn.Layer]:
    """The batch-norm layers of a `paddle.Model` or a `paddle.nn.Layer` by name.

    Raises RecipeError, with the name of the function that asks, where there are none.
    """
    norms = norm_layers(network_of(model))
    if not norms:
        raise RecipeError(f"{asker}: the network has no batch norm")
    return norms


def check_counts(asker: str, *, least: int = 1, **counts: Any) -> None:
    """Raise RecipeError unless each is a whole number of at least `least`."""
    for name, count in counts.items():
        if not isinstance(count, numbers.Integral) or count < least:
            raise RecipeError(f"{asker}: {name} = {count!r}: must be a whole number, at least {least}")
