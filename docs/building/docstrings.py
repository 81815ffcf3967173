"""Docstrings of the house, where parameters stand as "epochs: how many. seed: of what.", as Markdown with lists."""

from __future__ import annotations

import re
from typing import Any

import griffe

_NAME = r"\w+(?: \([^()]*\))?"  # epochs, or: data (`data.source`)
_BEGIN = re.compile(rf"(?:^|(?<=\n)|(?<=[.;] )|(?<=\.\n))({_NAME}(?:,\s{_NAME})*): (?=\S)")
_OUTCOME = re.compile(r"(?<=\.)\s(?=(?:Raises|Returns) )")


class ParameterLists(griffe.Extension):
    """What a paragraph says of parameters or attributes becomes a list; all else stays as it is."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        _rewrite(func, {parameter.name for parameter in func.parameters})

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        made = cls.members.get("__init__")
        parameters = made.parameters if isinstance(made, griffe.Function) else ()
        _rewrite(cls, {*cls.members, *(parameter.name for parameter in parameters)})


def _rewrite(documented: griffe.Object, names: set[str]) -> None:
    if documented.docstring:
        text = documented.docstring.value.replace("][", r"]\[")  # a shape, [C][C], is no link
        paragraphs = (_listed(paragraph, names) for paragraph in text.split("\n\n"))
        documented.docstring.value = "\n\n".join(paragraphs)


def _listed(paragraph: str, names: set[str]) -> str:
    """The paragraph with an item for each of the `names` that it describes."""
    begins = [found for found in _BEGIN.finditer(paragraph) if names.issuperset(_names(found[1]))]
    if not begins or paragraph.startswith(" "):
        return paragraph
    ends = [found.start() for found in begins[1:]] + [len(paragraph)]
    items = [_item(found, paragraph[found.end() : end]) for found, end in zip(begins, ends, strict=True)]
    return "\n\n".join(filter(None, [paragraph[: begins[0].start()].strip(), "\n".join(items)]))


def _item(begin: re.Match[str], text: str) -> str:
    told, *outcome = _OUTCOME.split(text.strip())
    named = ", ".join(f"`{name}`" for name in _names(begin[1]))
    return "\n\n".join([f"- {named}: {_flat(told)}", *map(_flat, outcome)])


def _names(listed: str) -> list[str]:
    return re.findall(r"(\w+)(?: \([^()]*\))?(?:,\s|$)", listed)


def _flat(text: str) -> str:
    return " ".join(text.split())
