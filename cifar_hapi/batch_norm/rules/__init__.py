"""All rules of a diagnosis. A rule of your own is a function below `@rule(...)`, and joins in RULES or `diagnose`."""

from __future__ import annotations

from cifar_hapi.batch_norm.rules import channels, depth, processes, shift, statistics, training
from cifar_hapi.batch_norm.rules.needs import Need
from cifar_hapi.batch_norm.rules.rule import Found, Rule, rule

RULES: tuple[Rule, ...] = (
    statistics.not_finite,
    statistics.negative_variance,
    statistics.never_trained,
    statistics.frozen_at_start,
    statistics.starting_values_left,
    statistics.lagging_statistics,
    statistics.train_evaluation_gap,
    channels.dead_scale,
    channels.never_positive,
    channels.constant_input,
    channels.epsilon_too_large,
    depth.variance_through_depth,
    depth.beyond_float16,
    training.tiny_batch,
    training.small_last_batch,
    training.frozen_but_updating,
    training.evaluation_mode_in_training,
    training.one_without_gradient,
    training.batch_statistics_in_evaluation,
    training.never_called,
    training.weight_decay,
    processes.unsynchronised,
    shift.shifted_test_images,
)

__all__ = ["RULES", "Found", "Need", "Rule", "rule", "rules_table"]


def rules_table() -> str:
    """The rules as a table in Markdown."""
    head = "| rule | looks at | threshold | means | what to do | source |\n|---|---|---|---|---|---|"
    cells = (
        (f"`{each.name}`", each.looks_at, each.threshold, each.meaning, each.action, each.source or "—")
        for each in RULES
    )
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in cells)])
