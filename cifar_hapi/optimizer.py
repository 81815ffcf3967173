"""From the declared optimiser and schedule to Paddle's."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import paddle

from callbacks.paddle_model import norm_layers
from cifar_hapi.errors import RecipeError
from cifar_hapi.muon import Muon
from cifar_hapi.recipe import OptimizerRecipe, Recipe, ScheduleRecipe


def check_optimizer(recipe: Recipe) -> None:
    """Raise RecipeError for an optimiser that would spoil the network of `recipe`."""
    network = recipe.network
    if recipe.optimizer.name == "muon" and (network.norm == "none" or network.freeze_norm):
        raise RecipeError(
            "optimizer.name = muon: gives filters a norm of its own, which batch norm must make up for; "
            "not with network.norm = none or network.freeze_norm = true"
        )


def build_optimizer(
    recipe: OptimizerRecipe,
    schedule: ScheduleRecipe,
    network: paddle.nn.Layer,
    steps_per_epoch: int,
    epochs: int,
) -> Any:
    """The optimiser of `network`'s parameters, its rate moved by step as `schedule` says.

    Raises RecipeError for a group that no parameter is in, and for decays that the optimiser can't have.
    """
    rules = _rules(network, recipe)
    learning = {name: parameter for name, parameter in network.named_parameters() if name in rules}
    for name, parameter in learning.items():
        parameter.optimize_attr["learning_rate"] = rules[name].lr / recipe.lr
    common = {
        "learning_rate": paddle.optimizer.lr.LambdaDecay(recipe.lr, rate_multiple(schedule, steps_per_epoch, epochs)),
        "parameters": list(learning.values()),
    }
    if recipe.name == "adamw":
        decayed = {parameter.name for name, parameter in learning.items() if rules[name].weight_decay}
        return paddle.optimizer.AdamW(
            weight_decay=recipe.weight_decay, apply_decay_param_fun=decayed.__contains__, **_betas(recipe), **common
        )
    # Not by Paddle's parameter groups: as attributes, rates and decays are the same to every optimiser and to minimize.
    for name, parameter in learning.items():
        parameter.regularizer = paddle.regularizer.L2Decay(rules[name].weight_decay)
    if recipe.name == "adam":
        return paddle.optimizer.Adam(**_betas(recipe), **common)
    if recipe.name == "muon":
        return Muon(momentum=recipe.momentum, sgd_momentum=recipe.sgd_momentum, **common)
    return paddle.optimizer.Momentum(momentum=recipe.momentum, use_nesterov=recipe.nesterov, **common)


def rate_multiple(schedule: ScheduleRecipe, steps_per_epoch: int, epochs: int) -> Callable[[int], float]:
    """The function from a step, counted from 0, to the multiple of the base rate that this step takes."""
    warmup, total = round(schedule.warmup_epochs * steps_per_epoch), epochs * steps_per_epoch
    shapes: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "cosine": partial(_cosine, first=warmup, last=total, final=schedule.final),
        "linear": partial(_linear, first=warmup, last=total, final=schedule.final),
        "one_cycle": partial(_one_cycle, first=warmup, last=total, peak=schedule.peak, final=schedule.final),
        "piecewise": lambda step: schedule.gamma ** sum(step >= mark * steps_per_epoch for mark in schedule.milestones),
    }
    shape = shapes[schedule.name]
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else shape(step)


def _cosine(step: int, first: int, last: int, final: float) -> float:
    """Loshchilov & Hutter 2017 (arXiv 1608.03983), one period."""
    return final + (1 - final) * (1 + math.cos(math.pi * _done(step, first, last))) / 2


def _linear(step: int, first: int, last: int, final: float) -> float:
    return final + (1 - final) * (1 - _done(step, first, last))


def _done(step: int, first: int, last: int) -> float:
    """Which share of the way from step `first` to `last` lies behind."""
    return min(1.0, (step - first) / max(1, last - first))


def _one_cycle(step: int, first: int, last: int, peak: float, final: float) -> float:
    """Smith & Topin 2018 (arXiv 1708.07120), with straight sides; begins at a 25th of the peak, as PyTorch's does."""
    done, start = (step - first + 1) / max(1, last - first), 1 / 25
    if done < peak:
        return start + (1 - start) * done / peak
    return final + (1 - final) * max(0.0, (1 - done) / (1 - peak))


def _betas(recipe: OptimizerRecipe) -> dict[str, float]:
    return {"beta1": recipe.beta1, "beta2": recipe.beta2, "epsilon": recipe.epsilon}


@dataclass(frozen=True)
class _Rule:
    """The rate and the weight decay of one parameter."""

    lr: float
    weight_decay: float


def _rules(network: paddle.nn.Layer, recipe: OptimizerRecipe) -> dict[str, _Rule]:
    """By the names in the network of the parameters that learn: what the recipe says of all, and then of groups."""
    norms = norm_layers(network)
    undecayed = set() if recipe.decay_norm else set(norms)
    rules = {
        name: _Rule(recipe.lr, 0.0 if name.rpartition(".")[0] in undecayed else recipe.weight_decay)
        for name, parameter in network.named_parameters()
        if not parameter.stop_gradient
    }
    for group in recipe.groups:
        names = fnmatch.filter(rules, group.parameters)
        if not names:
            raise RecipeError(
                f"optimizer.groups: no parameter that learns is called {group.parameters!r}; there are: {_few(rules)}"
            )
        changes = {
            key: value for key, value in (("lr", group.lr), ("weight_decay", group.weight_decay)) if value is not None
        }
        if recipe.name == "adamw" and changes.get("weight_decay", 0.0) not in (0.0, recipe.weight_decay):
            raise RecipeError(
                f"optimizer.groups: {group.parameters}: adamw has one weight_decay; a group's is that or 0"
            )
        rules |= {name: dataclasses.replace(rules[name], **changes) for name in names}
    return rules


def _few(names: Collection[str], count: int = 6) -> str:
    return ", ".join(itertools.islice(names, count)) + (", ..." if len(names) > count else "")
