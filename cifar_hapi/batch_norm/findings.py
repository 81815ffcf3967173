"""What a diagnosis has found, for people and as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from cifar_hapi.batch_norm.words import counted
from cifar_hapi.piped import trimmed

Severity = Literal["note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")  # in ascending order
_STYLES = {"note": "cyan", "warning": "yellow", "error": "bold red"}
_SHOWN = 8  # channels that are listed one by one
_LISTED = 3  # layers with the very same evidence that are


@dataclass(frozen=True)
class Finding:
    """One thing that a rule has found.

    rule: its name. layer: the batch norm's name in the network, None for the network as a whole. channels: which of the
    layer's, counted from 0; none where it is all or none of them. evidence: numbers by what they are. meaning, action:
    a sentence each. source: the paper it comes from, or "".
    """

    rule: str
    severity: Severity
    layer: str | None
    channels: tuple[int, ...]
    evidence: Mapping[str, float | int | str]
    meaning: str
    action: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON; a number that is none, or infinite, is null."""
        evidence = {key: _finite(value) for key, value in self.evidence.items()}
        return {**dataclasses.asdict(self), "channels": list(self.channels), "evidence": evidence}

    @property
    def place(self) -> str:
        """Layer and channels in words."""
        layer = "network" if self.layer is None else self.layer or "batch norm"
        if not self.channels:
            return layer
        shown = ", ".join(map(str, self.channels[:_SHOWN]))
        more = f" and {len(self.channels) - _SHOWN} more" if len(self.channels) > _SHOWN else ""
        return f"{layer}, channel{'s' * (len(self.channels) > 1)} {shown}{more}"

    @property
    def shown_evidence(self) -> str:
        return ", ".join(f"{key} {_short(value)}" for key, value in self.evidence.items())

    def beside(self, gravest: Finding) -> str:
        """What is to be said before it under the title of a graver finding of the same rule, "note: "; else ""."""
        return "" if self.severity == gravest.severity else f"{self.severity}: "

    @property
    def advice(self) -> list[str]:
        """What it means, and what to do, a line each; the same for all findings of a rule."""
        source = f" ({self.source})" if self.source else ""
        return [self.meaning + source, f"-> {self.action}"]

    def __str__(self) -> str:
        lines = [self.shown_evidence, *self.advice]
        return "\n".join([f"{self.severity}: {self.rule}: {self.place}", *(f"    {line}" for line in lines)])


@dataclass(frozen=True)
class Diagnosis(Sequence[Finding]):
    """All findings about a network, the gravest first.

    layers: how many batch norms were looked at, images: on how many images, rules: by how many rules. unable: those
    among them that could not look, by name, and what they lacked, as an argument of `diagnose` or in words. names:
    those of the rules; () where they are not known.
    """

    findings: tuple[Finding, ...]
    layers: int
    images: int
    rules: int
    unable: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @property
    def worst(self) -> Severity | None:
        """The highest severity, None where nothing was found."""
        return self.findings[0].severity if self.findings else None

    def at_least(self, severity: Severity) -> list[Finding]:
        """The findings of that severity and above."""
        return [each for each in self.findings if SEVERITIES.index(each.severity) >= SEVERITIES.index(severity)]

    def of(self, rule: str) -> list[Finding]:
        """The findings of one rule. Raises ValueError for a name that is none of the rules'."""
        if self.names and rule not in self.names:
            raise ValueError(f"of: no rule {rule!r} has looked; there are {', '.join(self.names)}")
        return [each for each in self.findings if each.rule == rule]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        counts = {"layers": self.layers, "images": self.images, "rules": self.rules, "unable": dict(self.unable)}
        return {**counts, "worst": self.worst, "findings": [each.to_dict() for each in self.findings]}

    @property
    def summary(self) -> str:
        counts = ((sum(each.severity == severity for each in self.findings), severity) for severity in SEVERITIES[::-1])
        found = ", ".join(counted(count, severity) for count, severity in counts if count)
        looked_at = f"{counted(self.layers, 'batch norm')}, {counted(self.images, 'image')}"
        looked = f"{self.rules - len(self.unable)} of " if self.unable else ""
        return f"{found or 'nothing found'}: {looked_at}, {looked}{counted(self.rules, 'rule')}"

    @property
    def not_looked(self) -> str:
        """Which rules could not look, by what they lacked; "" if all could."""
        lacked: dict[str, list[str]] = {}
        for rule, lacking in self.unable.items():
            lacked.setdefault(lacking, []).append(rule)
        told = ", ".join(f"no {lacking} ({', '.join(rules)})" for lacking, rules in lacked.items())
        return f"could not look: {told}" if told else ""

    def show(self, console: Console | None = None) -> None:
        """Print all findings, in colours and as wide as the terminal is."""
        console = console or Console()
        with trimmed(console):
            console.print(Text(self.summary))
            if self.not_looked:
                console.print(Text(self.not_looked, style="dim"))
            for first, *others in self.by_rule():
                console.print(Text.assemble((f"\n{first.severity}", _STYLES[first.severity]), f": {first.rule}"))
                for line in _lines([first, *others]):
                    console.print(Padding(Text(line), (0, 0, 0, 4), expand=False))

    def __str__(self) -> str:
        blocks = [
            "\n".join([f"{same[0].severity}: {same[0].rule}", *(f"    {line}" for line in _lines(same))])
            for same in self.by_rule()
        ]
        head = "\n".join(filter(None, [self.summary, self.not_looked]))
        return "\n\n".join([head, *blocks])

    def by_rule(self) -> list[list[Finding]]:
        """The findings of each rule together, as they mean the same; the gravest first."""
        groups: dict[str, list[Finding]] = {}
        for each in self.findings:
            groups.setdefault(each.rule, []).append(each)
        return list(groups.values())

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, index: Any) -> Any:
        return self.findings[index]


def _lines(same: Sequence[Finding]) -> list[str]:
    """Where and by what each shows, many of the same evidence in one line; then what they mean and what to do."""
    places: dict[tuple[str, str], list[str]] = {}
    for each in same:
        places.setdefault((each.beside(same[0]), each.shown_evidence), []).append(each.place)
    shown = []
    for (lesser, evidence), where in places.items():
        if len(where) > _LISTED:
            where = [f"{where[0]} and {len(where) - 1} other layers"]
        shown += [f"{lesser}{place}: {evidence}" for place in where]
    return [*shown, *same[0].advice]


def _finite(value: float | int | str) -> float | int | str | None:
    return value if isinstance(value, str | int) or math.isfinite(value) else None


def _short(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
