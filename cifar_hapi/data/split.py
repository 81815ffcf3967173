"""Hold part of the training images out for validation."""

from __future__ import annotations

import numpy as np

from cifar_hapi.errors import RecipeError


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and indices held out, both int64, sorted and without overlap.

    Each class of n images gives round(fraction * n) of them to the held-out part; where the fraction isn't 0
    and n >= 2, both parts get at least one. A class of one image stays in training. The choice depends on the
    arguments alone. labels: integers [N]. Raises RecipeError unless 0 <= fraction < 1.
    """
    if not 0 <= fraction < 1:
        raise RecipeError(f"val_fraction is {fraction}: the part held out of training must be at least 0 and below 1")
    rng = np.random.default_rng(seed)
    is_held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        is_held_out[members[: _held_out_count(len(members), fraction)]] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def _held_out_count(class_size: int, fraction: float) -> int:
    if fraction == 0 or class_size == 1:
        return 0
    return min(max(round(fraction * class_size), 1), class_size - 1)
