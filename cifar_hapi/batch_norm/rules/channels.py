"""Rules about single channels: dead ones, and those whose input does not vary."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cifar_hapi.batch_norm.findings import Severity
from cifar_hapi.batch_norm.observation import NormLayer, Observation
from cifar_hapi.batch_norm.rules import needs, thresholds
from cifar_hapi.batch_norm.rules.rule import Found, rule


@rule(
    "dead-scale",
    looks_at="scale of each channel, beside the largest of its layer",
    threshold=f"at most {thresholds.DEAD_SCALE:g} of it: note; more than {thresholds.DEAD_SHARE:g} of the channels: "
    "warning",
    meaning="The channel is a constant, its shift, whatever the image shows.",
    action="Take weight decay off scale and shift; the channel can be pruned. Right after a start with scale 0 it is "
    "as it should be.",
    source="Liu et al. 2017, arXiv 1708.06519",
)
def dead_scale(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        sizes = abs(layer.scale)
        channels = np.flatnonzero(sizes <= thresholds.DEAD_SCALE * sizes.max())
        if len(channels):
            severity: Severity = "warning" if len(channels) > thresholds.DEAD_SHARE * len(sizes) else "note"
            yield Found(severity, {"scale": sizes[channels].max(), "largest": sizes.max()}, layer.name, channels)


@rule(
    "never-positive",
    looks_at="outputs of each channel in evaluation mode, where a ReLU layer is right behind",
    threshold=f"none above 0, in any image or place: note; more than {thresholds.DEAD_SHARE:g} of the channels: "
    "warning; all of them: error",
    meaning="The ReLU lets nothing of the channel through, and so no gradient: it can hardly come back.",
    action="Lower the rate, warm up, or start anew; the channel can be pruned.",
    source="Lu et al. 2019, arXiv 1903.06733",
    needs=(needs.RELU, needs.IMAGES),
)
def never_positive(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        if layer.positive is None:
            continue
        channels = np.flatnonzero(layer.positive == 0)
        share = len(channels) / len(layer.positive)
        severity: Severity = "error" if share == 1 else "warning" if share > thresholds.DEAD_SHARE else "note"
        if len(channels):
            yield Found(severity, {"dead": len(channels), "of": len(layer.positive)}, layer.name, channels)


@rule(
    "constant-input",
    looks_at="variance of each channel's input, beside the square of its mean",
    threshold=f"at most {thresholds.CONSTANT:g} of it, or 0: warning",
    meaning="There is nothing to normalise: the output is the shift, and in evaluation the running variance falls to "
    "0, so that any deviation is multiplied by up to 1 / sqrt(epsilon).",
    action="Look at what is before it: a dead channel, a filter of zeros, an input that is padded.",
    needs=needs.IMAGES,
)
def constant_input(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        channels = np.flatnonzero(_constant(layer))
        if len(channels):
            yield Found("warning", {"variance": layer.trained.variance[channels].max()}, layer.name, channels)


@rule(
    "epsilon-too-large",
    looks_at="epsilon, beside the variance of each channel's input that is not constant",
    threshold=f"{thresholds.EPSILON_NOTED:g} of it: note; {thresholds.EPSILON_WARNED:g} of it: warning",
    meaning="Outputs have a smaller standard deviation than the scale: batch norm fades out.",
    action="Lower epsilon, or look why the variance is so small: weight decay of filters, a tiny start.",
    needs=needs.IMAGES,
)
def epsilon_too_large(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        share = np.where(_constant(layer), 0, layer.epsilon / np.maximum(layer.trained.variance, 1e-300))
        channels = np.flatnonzero(share > thresholds.EPSILON_NOTED)
        if len(channels):
            severity: Severity = "warning" if share.max() > thresholds.EPSILON_WARNED else "note"
            lowest = layer.trained.variance[channels].min()
            yield Found(severity, {"epsilon": layer.epsilon, "variance": lowest}, layer.name, channels)


def _constant(layer: NormLayer) -> np.ndarray:
    """Which channels' input does not vary, bool [C]."""
    return np.asarray(layer.trained.variance <= thresholds.CONSTANT * layer.trained.mean**2)
