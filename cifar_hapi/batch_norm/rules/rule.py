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
    """What a rule's function gives: how grave it is, the numbers that show it, and where."""

    severity: Severity
    evidence: Mapping[str, float | int | str]
    layer: str | None = None
    channels: Sequence[int] | np.ndarray = ()


@dataclass(frozen=True)
class Rule:
    """A rule; called with an observation it gives its findings.

    looks_at, threshold: in words, for the table of the rules. meaning, action, source: as in `Finding`. needs: what it
    cannot look without, None if nothing.
    """

    name: str
    looks_at: str
    threshold: str
    meaning: str
    action: str
    source: str
    find: Callable[[Observation], Iterable[Found]]
    needs: Need | None = None

    def lacks(self, observation: Observation) -> str:
        """What it needs and an observation does not have, "" if it can look."""
        return "" if self.needs is None or self.needs.is_met(observation) else self.needs.what

    def __call__(self, observation: Observation) -> list[Finding]:
        return [
            Finding(
                rule=self.name,
                severity=found.severity,
                layer=found.layer,
                channels=tuple(int(channel) for channel in found.channels),
                evidence={key: _plain(value) for key, value in found.evidence.items()},
                meaning=self.meaning,
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
    needs: Need | None = None,
) -> Callable[[Callable[[Observation], Iterable[Found]]], Rule]:
    """Makes a rule of the function below it."""
    return lambda find: Rule(name, looks_at, threshold, meaning, action, source, find, needs)


def _plain(value: Any) -> float | int | str:
    """Python's own number for NumPy's."""
    return value.item() if isinstance(value, np.generic) else value
