"""From the declared optimiser and schedule to Paddle's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import paddle

from callbacks.paddle_model import norm_layers
from cifar_hapi.recipe import OptimizerRecipe, ScheduleRecipe


def build_optimizer(
    recipe: OptimizerRecipe,
    schedule: ScheduleRecipe,
    network: paddle.nn.Layer,
    steps_per_epoch: int,
    epochs: int,
) -> Any:
    """The optimiser of `network`'s parameters, its rate moved by step as `schedule` says."""
    parameters = [parameter for parameter in network.parameters() if not parameter.stop_gradient]
    undecayed = set() if recipe.decay_norm else _norm_parameters(network)
    common = {
        "learning_rate": paddle.optimizer.lr.LambdaDecay(recipe.lr, rate_multiple(schedule, steps_per_epoch, epochs)),
        "parameters": parameters,
    }
    if recipe.name == "adamw":
        decayed = {
            "weight_decay": recipe.weight_decay,
            "apply_decay_param_fun": lambda name: name not in undecayed,
        }
        return paddle.optimizer.AdamW(**_betas(recipe), **decayed, **common)
    for parameter in parameters:
        # Not by parameter groups: paddle.Model's train_batch can't have them (optimizer.minimize takes no groups).
        parameter.regularizer = paddle.regularizer.L2Decay(0.0 if parameter.name in undecayed else recipe.weight_decay)
    if recipe.name == "adam":
        return paddle.optimizer.Adam(**_betas(recipe), **common)
    return paddle.optimizer.Momentum(momentum=recipe.momentum, use_nesterov=recipe.nesterov, **common)


def rate_multiple(schedule: ScheduleRecipe, steps_per_epoch: int, epochs: int) -> Callable[[int], float]:
    """The function from a step, counted from 0, to the multiple of the base rate that this step takes."""
    warmup, total = round(schedule.warmup_epochs * steps_per_epoch), epochs * steps_per_epoch
    shapes: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "cosine": partial(_cosine, first=warmup, last=total, final=schedule.final),
        "one_cycle": partial(_one_cycle, first=warmup, last=total, peak=schedule.peak, final=schedule.final),
        "piecewise": lambda step: schedule.gamma ** sum(step >= mark * steps_per_epoch for mark in schedule.milestones),
    }
    shape = shapes[schedule.name]
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else shape(step)


def _cosine(step: int, first: int, last: int, final: float) -> float:
    """Loshchilov & Hutter 2017 (arXiv 1608.03983), one period."""
    done = min(1.0, (step - first) / max(1, last - first))
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


def _one_cycle(step: int, first: int, last: int, peak: float, final: float) -> float:
    """Smith & Topin 2018 (arXiv 1708.07120), with straight sides; begins at a 25th of the peak, as PyTorch's does."""
    done, start = (step - first + 1) / max(1, last - first), 1 / 25
    if done < peak:
        return start + (1 - start) * done / peak
    return final + (1 - final) * max(0.0, (1 - done) / (1 - peak))


def _betas(recipe: OptimizerRecipe) -> dict[str, float]:
    return {"beta1": recipe.beta1, "beta2": recipe.beta2, "epsilon": recipe.epsilon}


def _norm_parameters(network: paddle.nn.Layer) -> set[str]:
    """The names, Paddle's own, of all scales and shifts of batch norm."""
    norms = norm_layers(network).values()
    return {parameter.name for layer in norms for parameter in layer.parameters(include_sublayers=False)}
