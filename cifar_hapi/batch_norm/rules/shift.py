"""The rule about test images that are unlike the training images."""

from __future__ import annotations

from collections.abc import Iterator

from cifar_hapi.batch_norm.findings import Severity
from cifar_hapi.batch_norm.observation import NormLayer, Observation, Shifted, distance
from cifar_hapi.batch_norm.rules import needs, thresholds
from cifar_hapi.batch_norm.rules.rule import Found, rule
from cifar_hapi.batch_norm.rules.statistics import channels_away, in_numbers, severity_of, surely_better


@rule(
    "shifted-test-images",
    looks_at="distance of running statistics from those of the test images, in evaluation mode, where it is larger "
    "than for the other images; accuracy after recalibration on the test images without their labels",
    threshold=f"means by {thresholds.MEAN_NOTED:g} or log 1.5: note; {thresholds.MEAN_WARNED:g} or log 2, or "
    f"recalibration gains {thresholds.GAP_WARNED:g}: warning",
    meaning="The test images are of another kind: noise, blur, another brightness or another normalisation.",
    action="Prepare them as the training images; else recalibrate on unlabelled test images, of which some dozen help.",
    source="Schneider et al. 2020, arXiv 2006.16971; Nado et al. 2020, arXiv 2006.10963",
    needs=(needs.TEST_DATA, needs.IMAGES, needs.TEST_IMAGES),
)
def shifted_test_images(seen: Observation) -> Iterator[Found]:
    if seen.test is None or not seen.layers:
        return
    test, mends = seen.test, _mends(seen.test)
    layer = max(seen.layers, key=lambda each: sum(_excess(each, test)))
    away, (mean, log_ratio) = distance(layer, test.inputs[layer.name]), _excess(layer, test)
    if mean > thresholds.MEAN_NOTED or log_ratio > thresholds.LOG_RATIO_NOTED or mends:
        severity: Severity = "note" if severity_of(away) == "note" and not mends else "warning"
        yield Found(severity, {**in_numbers(away), **_accuracies(seen, test)}, layer.name, channels_away(away))


def _excess(layer: NormLayer, test: Shifted) -> tuple[float, float]:
    """By how much the layer's running statistics, means and variances, are further from these images than usual."""
    there, here = distance(layer, test.inputs[layer.name]), distance(layer, layer.deployed)
    return there.typical_mean - here.typical_mean, there.typical_log_ratio - here.typical_log_ratio


def _mends(test: Shifted) -> bool:
    """Whether recalibration makes the network surely and markedly better on these images."""
    if test.usual is None or test.recalibrated is None:
        return False
    gain, sure = surely_better(test.recalibrated, test.usual)
    return sure and gain > thresholds.GAP_WARNED


def _accuracies(seen: Observation, test: Shifted) -> dict[str, float]:
    outcomes = {
        "accuracy": seen.by_running,
        "on the test images": test.usual,
        "after recalibration": test.recalibrated,
    }
    return {what: outcome.accuracy for what, outcome in outcomes.items() if outcome is not None}
