"""The rule about training in several processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cifar_hapi.batch_norm.findings import Severity
from cifar_hapi.batch_norm.observation import NormLayer, Observation
from cifar_hapi.batch_norm.rules import needs, thresholds
from cifar_hapi.batch_norm.rules.rule import Found, rule


@rule(
    "unsynchronised",
    looks_at="each layer's tensors in other processes, beside the network's own",
    threshold=f"running statistics that differ: note; by more than {thresholds.MEAN_WARNED:g} standard deviations or "
    "log 2 (root mean square): warning; scale or shift that differ: error",
    meaning="Each process has statistics of its own share of the images; what is saved is those of one. Where scale or "
    "shift differ, processes train networks of their own.",
    action="Average running statistics over processes before evaluation, use SyncBatchNorm, or recalibrate; for the "
    "latter, look for gradients that are not exchanged.",
    needs=needs.PROCESSES,
)
def unsynchronised(seen: Observation) -> Iterator[Found]:
    for number, theirs in enumerate(seen.processes, start=1):
        for layer in seen.layers:
            names = {key: f"{layer.name}.{key}" if layer.name else key for key in ("weight", "bias", *_STATISTICS)}
            own = {key: name for key, name in names.items() if name in seen.tensors}
            differing = {key for key, name in own.items() if not _equal(seen.tensors[name], theirs[name])}
            if differing:
                means, ratios = _differences(layer, *(theirs[names[key]] for key in _STATISTICS))
                evidence = {"process": number, "means differ by": _rms(means), "log ratio": _rms(ratios)}
                channels = np.flatnonzero((means != 0) | (ratios != 0))
                yield Found(_severity(differing, means, ratios), evidence, layer.name, channels)


_STATISTICS = ("_mean", "_variance")


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=True)


def _differences(layer: NormLayer, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By channel: of the means in standard deviations, and the logarithm of the variances' ratio."""
    with np.errstate(all="ignore"):  # statistics that are broken have a rule of their own
        here, there = layer.running_variance + layer.epsilon, variance + layer.epsilon
        return (mean - layer.running_mean) / np.sqrt(here), np.log(there / here)


def _severity(differing: set[str], means: np.ndarray, ratios: np.ndarray) -> Severity:
    if not differing <= set(_STATISTICS):
        return "error"
    far = _rms(means) > thresholds.MEAN_WARNED or _rms(ratios) > thresholds.LOG_RATIO_WARNED
    return "warning" if far else "note"


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
