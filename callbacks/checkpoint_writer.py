"""Writing checkpoints while training goes on."""

from __future__ import annotations

import warnings
from concurrent.futures import Future, ThreadPoolExecutor

from callbacks.checkpoint_folder import CheckpointFolder, Saved, name_of


class CheckpointWriter:
    """Writes to `folder` in a thread, one checkpoint at a time; the newest `keep` remain, and those that are spared.

    failed: what became of the last one, None if it was written.
    """

    def __init__(self, folder: CheckpointFolder, keep: int):
        self.folder, self.keep = folder, keep
        self.failed: str | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[str, Future[None]] | None = None

    def start(self, saved: Saved, best: list[str], spared: str) -> None:
        """Write `saved`, after the one before. best: the names of the best ones, the very best first."""
        self.settle()
        name = name_of(saved.state["step"])
        self._writing = name, self._thread.submit(self._write, saved, best, spared)

    @property
    def is_done(self) -> bool:
        """Whether there is something to settle that needs no waiting."""
        return self._writing is not None and self._writing[1].done()

    def settle(self) -> str | None:
        """Wait for what is being written; the name of what could not be, after a warning."""
        if self._writing is None:
            return None
        (name, written), self._writing = self._writing, None
        try:
            written.result()
            self.failed = None
            return None
        except OSError as error:
            self.failed = f"{self.folder.path / name}: {error.strerror or error}"
            good = [each for each in self.folder.names() if each != name]
            kept = f"the last good one is {good[-1]}" if good else "there is none yet"
            warnings.warn(f"checkpoint not saved: {self.failed}; training goes on, {kept}", stacklevel=2)
            return name

    def _write(self, saved: Saved, best: list[str], spared: str) -> None:
        name = self.folder.write(saved.state["step"], saved)
        self.folder.point("latest", name)
        if best and best[0] in self.folder.names():
            self.folder.point("best", best[0])
        self.folder.prune(self.keep, {*best, spared})
