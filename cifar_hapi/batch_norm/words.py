"""Numbers of things in words."""

from __future__ import annotations


def counted(count: int, thing: str) -> str:
    """ "1 batch norm", "2 batch norms"; of things that end in -ch, "2 batches"."""
    plural = "" if count == 1 else "es" if thing.endswith("ch") else "s"
    return f"{count} {thing}{plural}"
