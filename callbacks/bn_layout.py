"""What one record of batch-norm statistics holds, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

TENSORS = ("running_mean", "running_variance", "scale", "shift")
PROBED = ("batch_mean", "batch_variance", "cut")
CHANGES = tuple(f"{name}_change" for name in TENSORS)
GRADIENTS = ("scale_gradient", "shift_gradient")
SUMMARY = ("min", "q1", "median", "q3", "max", "norm")
MOST_NUMBERS = 2**26  # of a record; a network of 4 million channels has fewer


@dataclass(frozen=True)
class Layout:
    """A record is one row of `width` float32 numbers: layer after layer, and of each layer quantity after quantity.

    layers: the channels of each layer, by name, in the network's order. per_channel: the quantities that have a number
    for each channel, recorded as these, or as the six of `SUMMARY` if `summarised`. norms: the quantities that have one
    number for the whole layer; they come after the others.

    Raises ValueError where that is more than 2^26 numbers.
    """

    layers: dict[str, int]
    per_channel: tuple[str, ...]
    norms: tuple[str, ...]
    summarised: bool

    def __post_init__(self) -> None:
        if self.width > MOST_NUMBERS:
            raise ValueError(f"{self.width} numbers in a record: more than {MOST_NUMBERS}")

    @cached_property
    def width(self) -> int:
        return sum(map(self._layer_width, self.layers))

    @property
    def quantities(self) -> tuple[str, ...]:
        return (*self.per_channel, *self.norms)

    def size(self, layer: str, quantity: str) -> int:
        """How many numbers of a record are the `quantity` of `layer`."""
        if quantity in self.norms:
            return 1
        return len(SUMMARY) if self.summarised else self.layers[layer]

    def place(self, layer: str, quantity: str) -> slice:
        """Where in a record they are. Raises KeyError, saying what there is, for a name that isn't there."""
        for name, there, what in ((layer, self.layers, "layer"), (quantity, self.quantities, "quantity")):
            if name not in there:
                raise KeyError(f"no {what} {name!r}; there are: {', '.join(there)}")
        start = self._starts[layer]
        for each in self.quantities[: self.quantities.index(quantity)]:
            start += self.size(layer, each)
        return slice(start, start + self.size(layer, quantity))

    def places(self) -> Iterator[tuple[str, str, slice]]:
        """Layer, quantity and place of all that a record holds, in order."""
        return ((layer, name, self.place(layer, name)) for layer in self.layers for name in self.quantities)

    def row(self, channels: dict[str, np.ndarray], norms: dict[str, np.ndarray]) -> np.ndarray:
        """The record, float32 [width], of values by layer: [per_channel, C] of the channels, [norms] of the layer."""
        parts = []
        for layer in self.layers:
            values = summary(channels[layer]) if self.summarised else channels[layer]
            parts += [values.ravel(), norms[layer]]
        return np.concatenate(parts).astype(np.float32)

    def _layer_width(self, layer: str) -> int:
        return sum(self.size(layer, quantity) for quantity in self.quantities)

    @cached_property
    def _starts(self) -> dict[str, int]:
        widths = [self._layer_width(layer) for layer in self.layers]
        return dict(zip(self.layers, np.cumsum([0, *widths[:-1]]).tolist(), strict=True))


def summary(values: np.ndarray) -> np.ndarray:
    """`SUMMARY` over the last axis, float32: [..., C] -> [..., 6]; quartiles are interpolated, the norm is Euclid's.

    All six are NaN where one value is, and a quartile that lies between -inf and inf is.
    """
    in_order = np.sort(values.astype(np.float64), axis=-1)  # NaN last
    with np.errstate(invalid="ignore", over="ignore"):
        quantiles = [_quantile(in_order, quarters / 4) for quarters in range(5)]
        norm = np.sqrt(np.square(in_order).sum(axis=-1))
        found = np.stack([*quantiles, norm], axis=-1)
        return np.where(np.isnan(in_order[..., -1:]), np.nan, found).astype(np.float32)


def _quantile(in_order: np.ndarray, share: float) -> np.ndarray:
    """As `np.quantile`, which makes NaN of the largest value where that is infinite."""
    position = share * (in_order.shape[-1] - 1)
    below = int(position)
    rest = position - below
    if rest == 0:
        return in_order[..., below]
    return (1 - rest) * in_order[..., below] + rest * in_order[..., below + 1]
