"""Rules about how large values are on their way through the network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cifar_hapi.batch_norm.observation import Observation
from cifar_hapi.batch_norm.rules import needs, thresholds
from cifar_hapi.batch_norm.rules.rule import Found, rule


@rule(
    "variance-through-depth",
    looks_at="variance of each layer's input, mean over its channels, beside that of the median layer",
    threshold=f"more than {thresholds.DEPTH_RATIO:.0e} times as large or as small: warning",
    meaning="The signal explodes or vanishes on the way, and with it gradients, by the inverse.",
    action="Batch norm behind every convolution; He initialisation; images that are normalised; a lower rate.",
    source="He et al. 2015, arXiv 1502.01852",
    needs=needs.IMAGES,
)
def variance_through_depth(seen: Observation) -> Iterator[Found]:
    if not seen.layers:
        return
    variances = np.array([layer.trained.variance.mean() for layer in seen.layers])
    median = np.median(variances)
    for place, (layer, variance) in enumerate(zip(seen.layers, variances, strict=True), start=1):
        if max(variance, median) > thresholds.DEPTH_RATIO * min(variance, median):
            yield Found("warning", {"variance": variance, "median layer": median, "layer number": place}, layer.name)


@rule(
    "beyond-float16",
    looks_at="largest size of each channel's input",
    threshold=f"above {thresholds.FLOAT16_LARGEST:g}: warning",
    meaning="In float16 this is infinite, and so is all that follows.",
    action="Train in float32 or bfloat16; look at variance-through-depth.",
)
def beyond_float16(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        sizes = np.maximum(abs(layer.trained.low), abs(layer.trained.high))
        channels = np.flatnonzero(sizes > thresholds.FLOAT16_LARGEST)
        if len(channels):
            yield Found("warning", {"largest": sizes.max()}, layer.name, channels)
