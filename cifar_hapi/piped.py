"""What is printed where no terminal reads it: into files and pipes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


@contextmanager
def trimmed(out: Console) -> Iterator[None]:
    """What is printed to `out` within it has no blanks at the ends of lines, which rich puts there, in files and pipes.

    Not to be nested: rich does not capture within a capture.
    """
    if out.is_terminal or out.record:
        yield
        return
    with out.capture() as captured:
        yield
    lines = [line.rstrip() for line in captured.get().removesuffix("\n").split("\n")]
    out.print(Text("\n".join(lines)), soft_wrap=True)
