"""What a rule is: a pure function from an observation to what it finds, and words about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cifar_hapi.batch_norm.findings import Finding, Severity
from cifar_hapi.batch_norm.observation import Observation
from cifar_hapi.batch_norm.rules.needs import Need


@dataclass(frozen=True)
class Found:
    """What a rule's function gives: how grave it is, the numbers that show it, and where.

    meaning: instead of the rule's own, where the numbers mean something else.
    """

    severity: Severity
    evidence: Mapping[str, float | int | str]
    layer: str | None = None
    channels: Sequence[int] | np.ndarray = ()
    meaning: str | None = None


@dataclass(frozen=True)
class Rule:
    """A rule; called with an observation it gives its findings, none where it lacks what it needs.

    looks_at, threshold: in words, for the table of the rules. meaning, action, source: as in `Finding`. needs: all that
    it cannot look without.
    """

    name: str
    looks_at: str
    threshold: str
    meaning: str
    action: str
    source: str
    find: Callable[[Observation], Iterable[Found]]
    needs: tuple[Need, ...] = ()

    def lacks(self, observation: Observation) -> str:
        """What it needs first of what an observation does not have, "" if it can look."""
        return next((need.what for need in self.needs if not need.is_met(observation)), "")

    def __call__(self, observation: Observation) -> list[Finding]:
        if self.lacks(observation):
            return []
        return [
            Finding(
                rule=self.name,
                severity=found.severity,
                layer=found.layer,
                channels=tuple(int(channel) for channel in found.channels),
                evidence={key: _plain(value) for key, value in found.evidence.items()},
                meaning=found.meaning or self.meaning,
                action=self.action,
                source=self.source,
            )
            for found in self.find(observation)
        ]


def rule(
    name: str,
    *,
    looks_at: str,
    threshold: str,
    meaning: str,
    action: str,
    source: str = "",
    needs: Need | tuple[Need, ...] = (),
) -> Callable[[Callable[[Observation], Iterable[Found]]], Rule]:
    """Makes a rule of the function below it."""
    needed = needs if isinstance(needs, tuple) else (needs,)
    return lambda find: Rule(name, looks_at, threshold, meaning, action, source, find, needed)


def _plain(value: Any) -> float | int | str:
    """Python's own number for NumPy's."""
    return value.item() if isinstance(value, np.generic) else value
