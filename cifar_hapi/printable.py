"""Text that others wrote, on its way to a terminal, which takes some characters for commands."""

from __future__ import annotations

import re
from typing import Any

# Control characters but for tab and line end, and halves of characters, which no terminal can be sent.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def escaped(text: str) -> str:
    """The text with all that is not printable written out, line ends too.

    >>> escaped("a cat\\n")
    'a cat\\\\n'
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def is_fit_to_print(value: Any) -> bool:
    """Whether no text in a value of JSON, keys included, holds characters that command a terminal."""
    if isinstance(value, str):
        return _UNFIT.search(value) is None
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return not isinstance(value, dict | list) or all(map(is_fit_to_print, parts))
