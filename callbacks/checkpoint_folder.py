"""Checkpoints on disk: one folder each, safetensors and JSON only, whole or not there.

checkpoints/step-00001950/weights.safetensors  state.json  MANIFEST.json (sizes and SHA-256 of the others)
checkpoints/latest, best                       the names of two of these folders
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as format_tensors

from callbacks.durable import sync_folder, write_file

_NAME = re.compile(r"step-\d{8}")
Label = Literal["latest", "best"]


class CheckpointError(Exception):
    """A checkpoint that is missing or damaged; its text is one line that names it."""


class CheckpointFolder:
    """The checkpoints below `path`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def write(self, step: int, weights: dict[str, np.ndarray], state: dict[str, Any]) -> str:
        """Save `weights` and the JSON-able `state` after `step` updates; the name of the new checkpoint.

        A reader sees all of it or none of it. The same step written again replaces the earlier one.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        name = f"step-{step:08d}"
        beside = Path(tempfile.mkdtemp(dir=self.path, prefix=f".{name}-"))
        try:
            _write_parts(beside, weights, state)
            shutil.rmtree(self.path / name, ignore_errors=True)
            beside.rename(self.path / name)
        finally:
            shutil.rmtree(beside, ignore_errors=True)  # after the renaming there is none
        sync_folder(self.path)
        return name

    def point(self, label: Label, name: str) -> None:
        """Make `label` mean the checkpoint `name`."""
        write_file(self.path / label, name + "\n")

    def names(self) -> list[str]:
        """The complete checkpoints, oldest first."""
        found = self.path.iterdir() if self.path.is_dir() else ()
        return sorted(entry.name for entry in found if _NAME.fullmatch(entry.name) and entry.is_dir())

    def labelled(self, label: Label) -> str | None:
        """The checkpoint that `label` means, None if there is none yet. Raises CheckpointError for a damaged label."""
        file = self.path / label
        if not file.is_file():
            return None
        name = file.read_text(encoding="utf-8", errors="replace").strip()
        if not _NAME.fullmatch(name):
            raise CheckpointError(f"{file}: names no checkpoint")
        return name

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints, those with a label never."""
        spared = {self.labelled("latest"), self.labelled("best"), *self.names()[-keep:]}
        for name in self.names():
            if name not in spared:
                shutil.rmtree(self.path / name)

    def read(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Weights and state of the checkpoint `name`, checked against its manifest. Raises CheckpointError."""
        folder = self.path / name
        parts = {part: _read_part(folder, part) for part in ("MANIFEST.json", "weights.safetensors", "state.json")}
        try:
            sums = {part: entry["sha256"] for part, entry in json.loads(parts.pop("MANIFEST.json"))["files"].items()}
            damaged = [part for part, data in parts.items() if sums[part] != hashlib.sha256(data).hexdigest()]
            if damaged:
                raise CheckpointError(f"{folder / damaged[0]}: damaged, its SHA-256 is not that of the manifest")
            return parse_tensors(parts["weights.safetensors"]), dict(json.loads(parts["state.json"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: damaged: {error}") from None


def _write_parts(folder: Path, weights: dict[str, np.ndarray], state: dict[str, Any]) -> None:
    parts = {
        "weights.safetensors": format_tensors({key: np.ascontiguousarray(value) for key, value in weights.items()}),
        "state.json": json.dumps(state, indent=1).encode(),
    }
    files = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in parts.items()}
    for name, data in parts.items():
        write_file(folder / name, data)
    write_file(folder / "MANIFEST.json", json.dumps({"format": 1, "files": files}, indent=1))
    folder.chmod(0o755)  # mkdtemp's 0700 would hide results from one's group


def _read_part(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder / name}: cannot be read: {error.strerror}") from None
