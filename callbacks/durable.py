"""Files and folders that are either whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_file(path: Path, data: bytes | str) -> None:
    """Write `data` beside `path`, sync it and rename it into place; on failure `path` is as it was."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_UMASK)  # mkstemp's 0600 would hide results from one's group
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)  # after the renaming there is none
    sync_folder(path.parent)


def write_new_file(path: Path, data: bytes) -> None:
    """Write `data` and sync it; for files of a folder that is put in place whole."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut; nothing to do where folders can't be opened (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


_UMASK = _read_umask()  # once: reading it means changing it, for all threads
