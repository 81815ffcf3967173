"""Rules about how layers are trained: batches, modes, gradients, weight decay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cifar_hapi.batch_norm.observation import NormLayer, Observation
from cifar_hapi.batch_norm.rules import needs, thresholds
from cifar_hapi.batch_norm.rules.rule import Found, rule

SMALL_BATCHES = "Wu & He 2018, arXiv 1803.08494"


@rule(
    "tiny-batch",
    looks_at="images of a training step in one process",
    threshold=f"fewer than {thresholds.BATCH_WARNED}: warning; 1: error",
    meaning="Statistics of so few images are noise: the mean of a batch of B has the variance t / B, t being that of "
    "the images' own means, and evaluation, which has no such noise, differs from training.",
    action="Take larger batches; or synchronise batch norm between processes, or freeze it, or use group norm.",
    source=SMALL_BATCHES,
    needs=needs.BATCH_SIZE,
)
def tiny_batch(seen: Observation) -> Iterator[Found]:
    size = seen.training.batch_size
    if size is None or size >= thresholds.BATCH_WARNED:
        return
    for layer in seen.layers:
        if not layer.frozen:
            yield Found("error" if size == 1 else "warning", _noise(layer, size), layer.name)


@rule(
    "small-last-batch",
    looks_at="images in an epoch's last training batch",
    threshold=f"1: warning; fewer than {thresholds.BATCH_WARNED} where others have more: note",
    meaning="It has the same weight in running statistics as any other batch, 1 - momentum, and evaluation comes right "
    "after it. Paddle does not normalise a single value a channel at all.",
    action="drop_last=True, or another batch size.",
    needs=needs.EPOCH_SIZE,
)
def small_last_batch(seen: Observation) -> Iterator[Found]:
    last, size = seen.training.last_batch, seen.training.batch_size
    if last is None or size is None or last == size or last >= thresholds.BATCH_WARNED:
        return
    for layer in seen.layers:
        if not layer.frozen:
            evidence = {**_noise(layer, last), "weight": 1 - layer.momentum}
            yield Found("warning" if last == 1 else "note", evidence, layer.name)


@rule(
    "frozen-but-updating",
    looks_at="layers whose scale and shift have no gradient",
    threshold="running statistics follow in training mode: warning",
    meaning="The layer is frozen by half: its running statistics drift to those of the new images.",
    action="Freeze statistics, too: use_global_stats=True, or eval() of the layer after train() of the network.",
)
def frozen_but_updating(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        at_rest = layer.frozen or (seen.training_mode and not layer.training)
        if not at_rest and True not in layer.learns and False in layer.learns:
            yield Found("warning", {"momentum": layer.momentum}, layer.name)


@rule(
    "evaluation-mode-in-training",
    looks_at="mode of each layer that learns, where the network is in training mode",
    threshold="evaluation: warning",
    meaning="Weights move on and the layer's running statistics stand still, so that they fit less and less.",
    action="network.train(); or freeze scale and shift, too, if the layer is meant to stay.",
)
def evaluation_mode_in_training(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        if seen.training_mode and not layer.training and not layer.frozen and True in layer.learns:
            yield Found("warning", {"in training mode": sum(each.training for each in seen.layers)}, layer.name)


@rule(
    "one-without-gradient",
    looks_at="whether scale and shift have gradients",
    threshold="one is there to learn and the other absent or frozen: warning",
    meaning="Paddle (2.6.2, 3.3.1) then gives a gradient to neither: the one that should learn stays as it is.",
    action="Let both learn, and hold the one at 1 or 0 by hand, or freeze both.",
)
def one_without_gradient(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        if layer.learns.count(True) == 1:
            scale, shift = ({True: "learns", False: "frozen", None: "absent"}[each] for each in layer.learns)
            yield Found("warning", {"scale": scale, "shift": shift}, layer.name)


@rule(
    "batch-statistics-in-evaluation",
    looks_at="use_global_stats of each layer",
    threshold="False, rather than None: error",
    meaning="In evaluation mode, too, Paddle normalises by the batch and moves running statistics: an answer depends "
    "on the other images, and evaluating changes the network.",
    action="use_global_stats=None.",
)
def batch_statistics_in_evaluation(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        if layer.always_by_batch:
            yield Found("error", {"momentum": layer.momentum}, layer.name)


@rule(
    "never-called",
    looks_at="which layers are called in evaluation mode",
    threshold="not once: note",
    meaning="The layer is in the network's parameters, but does nothing to these images.",
    action="Remove it, or look whether forward calls the right one.",
)
def never_called(seen: Observation) -> Iterator[Found]:
    for name in seen.unused:
        yield Found("note", {"layers that are": len(seen.layers)}, name)


@rule(
    "weight-decay",
    looks_at="weight decay of scale and shift",
    threshold="above 0: note",
    meaning="Decay of filters sets the effective rate; that of scale and shift makes the layer's output smaller, and "
    "channels die of it. Some recipes gain by it.",
    action="Nothing if the recipe wants it; else optimizer.decay_norm = false, and where one of optimizer.groups sets "
    'it, another after that, such as parameters = "*norm.bias", with weight_decay = 0.',
    source="He et al. 2019, arXiv 1812.01187; Summers & Dinneen 2020, arXiv 1906.03548",
    needs=needs.OPTIMISER,
)
def weight_decay(seen: Observation) -> Iterator[Found]:
    for layer in seen.layers:
        decays = dict(zip(("decay of scale", "decay of shift"), layer.decay or (), strict=False))
        if evidence := {what: decay for what, decay in decays.items() if decay}:
            yield Found("note", evidence, layer.name)


def _noise(layer: NormLayer, size: int) -> dict[str, float | int]:
    """How far the mean of a batch of this size is off, typically, in standard deviations."""
    variance = np.maximum(layer.trained.variance + layer.epsilon, 1e-300)
    share = float(np.mean(layer.trained.between / variance))
    return {
        "images": size,
        "values a channel": size * layer.trained.values,
        "images' share of the variance": share,
        "mean of a batch off by (standard deviations)": float(np.sqrt(share / size)),
    }
