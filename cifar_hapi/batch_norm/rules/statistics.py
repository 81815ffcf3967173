"""Rules about running statistics: whether they are numbers, and those of what the layers see."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cifar_hapi.batch_norm.findings import Severity
from cifar_hapi.batch_norm.observation import Distance, NormLayer, Observation, Outcome, distance
from cifar_hapi.batch_norm.rules import needs, thresholds
from cifar_hapi.batch_norm.rules.rule import Found, rule

MOMENTUM = "the layer's own momentum (BatchNorm2D(momentum=), not optimizer.momentum)"
PRECISE = "Wu & Johnson 2021, arXiv 2105.07576"


@rule(
    "not-finite",
    looks_at="running mean and variance, scale, shift; where these are numbers up to a layer, its input",
    threshold="any that is NaN or infinite",
    meaning="What comes out of these channels is no number, nor is what comes out of the network. Where it is the "
    "input, weights before the layer hold it, or are so large that float32 ends: the images are finite.",
    action="Go back to weights from before; lower the rate, or clip gradients; TerminateOnNaN tells of it in time.",
)
def not_finite(seen: Observation) -> Iterator[Found]:
    told = False
    for layer in seen.layers:
        tensors = (layer.running_mean, layer.running_variance, layer.scale, layer.shift)
        channels = np.flatnonzero(~np.isfinite(tensors).all(axis=0))
        what = "channels"
        if not len(channels) and not told:
            channels, what = np.flatnonzero(~np.isfinite((layer.trained.low, layer.trained.high)).all(axis=0)), "inputs"
        if len(channels):
            told = True  # of what follows from it no more is said
            yield Found("error", {what: len(channels), "of": len(layer.scale)}, layer.name, channels)


@rule(
    "negative-variance",
    looks_at="running variance",
    threshold="below 0",
    meaning="A variance is never negative; its root, and so the output in evaluation, is NaN where it exceeds epsilon.",
    action="Look for what wrote it (averaging of weights with extrapolation, a damaged file), and measure it anew.",
)
def negative_variance(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        channels = np.flatnonzero(layer.running_variance < 0)
        if len(channels):
            yield Found("error", {"lowest": layer.running_variance.min()}, layer.name, channels)


@rule(
    "never-trained",
    looks_at="running mean and variance",
    threshold="0 and 1 in all channels, which they begin with",
    meaning="The layer has never been in training mode with data, or only with batches of one value a channel, which "
    "Paddle neither normalises nor counts, such as one vector in BatchNorm1D: in evaluation it does not normalise.",
    action="After batches of one value, train anew with larger ones. Else recalibrate, or train with the layer in "
    "training mode.",
    source="Ioffe & Szegedy 2015, arXiv 1502.03167",
)
def never_trained(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        if layer.at_start and not layer.frozen:
            yield Found("error", _true_statistics(layer), layer.name)


@rule(
    "frozen-at-start",
    looks_at="running mean and variance of layers with use_global_stats=True",
    threshold="0 and 1 in all channels, which they begin with: warning",
    meaning="The layer does not normalise, neither in training nor in evaluation, and nothing will change that.",
    action="Let it follow batches: undo() of freeze_batch_norm, or use_global_stats=None. Then recalibrate, or train, "
    "and only then freeze it.",
)
def frozen_at_start(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        if layer.at_start and layer.frozen:
            yield Found("warning", _true_statistics(layer), layer.name)


@rule(
    "starting-values-left",
    looks_at="momentum ** steps, the weight that the first 0 and 1 still have in running statistics",
    threshold=f"above {thresholds.START_LEFT:g}: warning",
    meaning="The layer's momentum is too high for so few steps: running statistics are partly what they began with.",
    action=f"Recalibrate, train longer, or lower {MOMENTUM}.",
    source=PRECISE,
    needs=needs.STEPS,
)
def starting_values_left(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        steps = seen.training.steps
        left = 0.0 if steps is None or layer.frozen else layer.momentum**steps
        if steps is not None and left > thresholds.START_LEFT:
            yield Found("warning", {"momentum": layer.momentum, "steps": steps, "weight left": left}, layer.name)


@rule(
    "lagging-statistics",
    looks_at="distance of running statistics from those of the images where batches normalise, root mean square over "
    "the channels: of means in standard deviations; of variances as logarithm of their ratio",
    threshold=f"{thresholds.MEAN_NOTED:g} or log 1.5: note; {thresholds.MEAN_WARNED:g} or log 2: warning; "
    f"{thresholds.MEAN_WRONG:g} or log 10: error; one channel beyond {thresholds.CHANNEL_MEAN:g} or log 4: note",
    meaning="Running statistics are not those that the layer is trained with: evaluation computes something else.",
    action=f"Recalibrate; let the rate fall at the end of training; lower {MOMENTUM}.",
    source=PRECISE,
    needs=needs.IMAGES,
)
def lagging_statistics(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        if layer.frozen or layer.at_start:  # trained with these very statistics, or never: rules of their own
            continue
        away = distance(layer, layer.trained)
        channels, severity = channels_away(away), severity_of(away)
        if severity or len(channels):
            yield Found(severity or "note", in_numbers(away), layer.name, channels)


@rule(
    "train-evaluation-gap",
    looks_at="accuracy and loss on the same images, by batch statistics and by running ones",
    threshold=f"accuracy lower by {thresholds.GAP_WARNED:g}: warning; by {thresholds.GAP_WRONG:g}: error; either lower "
    f"or loss higher: note; each beyond {thresholds.STANDARD_ERRORS:g} standard errors of the paired difference",
    meaning="The network knows more than it shows in evaluation: running statistics do not fit it.",
    action="Recalibrate. Where lagging-statistics speaks, it names the layers.",
    source=PRECISE,
    needs=(needs.LABELS, needs.IMAGES),
)
def train_evaluation_gap(seen: Observation) -> Iterator[Found]:
    if seen.by_running is None or seen.by_batch is None:
        return
    gap, sure = surely_better(seen.by_batch, seen.by_running)
    more = seen.by_running.losses - seen.by_batch.losses
    costlier = more.mean() > thresholds.STANDARD_ERRORS * more.std() / np.sqrt(len(more))
    if sure or costlier:
        severity: Severity = "note"
        if sure and gap > thresholds.GAP_WARNED:
            severity = "error" if gap > thresholds.GAP_WRONG else "warning"
        yield Found(
            severity,
            {
                "accuracy by batch": seen.by_batch.accuracy,
                "by running statistics": seen.by_running.accuracy,
                "loss by batch": seen.by_batch.loss,
                "by running": seen.by_running.loss,
            },
            meaning=None if sure else _LOSS_ALONE,
        )


_LOSS_ALONE = (
    "In evaluation the loss is higher, though the network is not surely less often right: running statistics fit it "
    "less well than those of the batch."
)


def _true_statistics(layer: NormLayer) -> dict[str, float]:
    return {"true mean": abs(layer.trained.mean).mean(), "true variance": layer.trained.variance.mean()}


def surely_better(one: Outcome, other: Outcome) -> tuple[float, bool]:
    """How much more accurate `one` is than `other` on the same images, and whether that is more than chance.

    The standard error is that of the difference of paired answers: the root of how many differ, by the images.
    """
    gain = one.accuracy - other.accuracy
    error = np.sqrt((one.correct != other.correct).sum()) / len(one.correct)
    return gain, bool(gain > thresholds.STANDARD_ERRORS * error)


def severity_of(away: Distance) -> Severity | None:
    """How grave it is for a layer that its running statistics are so far away."""
    limits: tuple[tuple[Severity, float, float], ...] = (
        ("error", thresholds.MEAN_WRONG, thresholds.LOG_RATIO_WRONG),
        ("warning", thresholds.MEAN_WARNED, thresholds.LOG_RATIO_WARNED),
        ("note", thresholds.MEAN_NOTED, thresholds.LOG_RATIO_NOTED),
    )
    far = (limit for limit, mean, ratio in limits if away.typical_mean > mean or away.typical_log_ratio > ratio)
    return next(far, None)


def channels_away(away: Distance) -> np.ndarray:
    """The channels that are far away by themselves, more than the noise of few images may explain."""
    noises = (thresholds.STANDARD_ERRORS * np.sqrt(noise) for noise in (away.mean_noise, away.log_ratio_noise))
    of_mean, of_log_ratio = noises
    by_mean = abs(away.mean) > thresholds.CHANNEL_MEAN + of_mean
    return np.flatnonzero(by_mean | (abs(away.log_ratio) > thresholds.CHANNEL_LOG_RATIO + of_log_ratio))


def in_numbers(away: Distance) -> dict[str, float]:
    """The evidence that a layer is far away."""
    return {
        "mean off by (standard deviations)": away.typical_mean,
        "log ratio of variances": away.typical_log_ratio,
        "furthest channel": float(abs(away.mean).max()),
    }
