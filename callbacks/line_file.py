"""A file of JSON, a value a line, that grows while a training goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from callbacks.durable import write_file


class LineFile:
    """Appends whole lines to `path`; what a write that failed left behind is overwritten by the next one."""

    def __init__(self, path: Path):
        self.path = path
        self._end = 0  # of the last whole line

    def begin(self, lines: bytes) -> None:
        """A file of `lines`, in the place of any that was there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, lines)
        self._end = len(lines)

    def cut(self, end: int) -> None:
        """Go on behind the first `end` bytes of the file that is there."""
        os.truncate(self.path, end)
        self._end = end

    def append(self, line: bytes, synced: bool = False) -> None:
        """`synced`: it outlives a power cut. Raises OSError, and then the line is not there."""
        with self.path.open("r+b") as file:
            file.truncate(self._end)
            file.seek(self._end)
            file.write(line)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        self._end += len(line)


def json_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
