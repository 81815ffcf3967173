"""Checkpoints on disk: one folder each, safetensors and JSON only, whole or not there.

checkpoints/step-00001950/weights.safetensors    what to evaluate and to use: parameters and buffers by name
                          training.safetensors   what to go on training with, where that is something else (averaging)
                          optimizer.safetensors  e.g. layer1.0.conv1.weight/velocity_0
                          callbacks.safetensors  arrays that callbacks remember, e.g. EarlyStopping/weights/fc.bias
                          state.json             all else
                          MANIFEST.json          sizes and SHA-256 of the others
checkpoints/latest, best                         the names of two of these folders
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as format_tensors

from callbacks.durable import sync_folder, write_file, write_new_file
from callbacks.paddle_model import Tensors

_NAME = re.compile(r"step-\d{8,12}")
_TENSOR_PARTS = ("weights", "training", "optimizer", "callbacks")
_SMALL = 2**20  # bytes; a manifest has less than a thousand
_LONGEST_LABEL = 100  # bytes; names have 17
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError)

Label = Literal["latest", "best"]


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged or of something else; its text is one line that names it."""

    def __str__(self) -> str:  # names in a file may hold anything, line ends and terminal commands too
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in super().__str__())


@dataclass
class Saved:
    """What a checkpoint holds; `training` is None where training goes on with `weights`."""

    weights: Tensors
    state: dict[str, Any] = field(default_factory=dict)
    optimizer: Tensors = field(default_factory=dict)
    callbacks: Tensors = field(default_factory=dict)
    training: Tensors | None = None

    @property
    def to_go_on(self) -> Tensors:
        """The weights that training goes on with."""
        return self.weights if self.training is None else self.training


class CheckpointFolder:
    """The checkpoints below `path`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def write(self, step: int, saved: Saved) -> str:
        """Write a checkpoint of `step`; its name.

        A reader sees all of it or none of it. One of the same step that is there already is replaced.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        name = name_of(step)
        beside = Path(tempfile.mkdtemp(dir=self.path, prefix=f".{name}-"))
        replaced = beside.with_name(f"{beside.name}-replaced")
        try:
            _write_parts(beside, saved)
            if (self.path / name).exists():
                (self.path / name).rename(replaced)
            beside.rename(self.path / name)
        finally:
            shutil.rmtree(beside, ignore_errors=True)  # after the renaming there is none
            shutil.rmtree(replaced, ignore_errors=True)
        sync_folder(self.path)
        return name

    def point(self, label: Label, name: str) -> None:
        """Make `label` mean the checkpoint `name`."""
        write_file(self.path / label, name + "\n")

    def names(self) -> list[str]:
        """The checkpoints, oldest first."""
        found = self.path.iterdir() if self.path.is_dir() else ()
        named = [entry.name for entry in found if _NAME.fullmatch(entry.name) and stat.S_ISDIR(entry.lstat().st_mode)]
        return sorted(named, key=step_of)

    def weights_file(self, name: str) -> Path:
        """Where the weights of the checkpoint `name` are, as safetensors by name."""
        return self.path / name / "weights.safetensors"

    def labelled(self, label: Label) -> str | None:
        """The checkpoint that `label` means, None if there is none yet. Raises CheckpointError for a damaged label."""
        file = self.path / label
        if not file.is_file():
            return None
        with file.open("rb") as stream:
            name = stream.read(_LONGEST_LABEL).decode("utf-8", "replace").strip()
        if not _NAME.fullmatch(name):
            raise CheckpointError(f"{file}: names no checkpoint")
        return name

    def prune(self, keep: int, spared: set[str]) -> None:
        """Remove all but the newest `keep` checkpoints and those `spared`."""
        for name in self.names()[:-keep]:
            if name not in spared:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(self.path / name)

    def sweep(self) -> None:
        """Remove what a process left here that was killed while it wrote; no other may be writing."""
        for replaced in self.path.glob(".step-*-replaced"):
            name = _NAME.match(replaced.name[1:])
            if name and not (self.path / name.group()).exists():
                replaced.rename(self.path / name.group())
        for entry in self.path.glob(".*-*") if self.path.is_dir() else ():
            if re.match(r"\.(step|latest|best)-", entry.name):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def read(self, name: str) -> Saved:
        """The checkpoint `name`, checked against its manifest. Raises CheckpointError."""
        with self._damage_told(name) as folder:
            files = _manifest(folder)
            tensors = {
                part: parse_tensors(_listed_part(folder, f"{part}.safetensors", files))
                for part in _TENSOR_PARTS
                if part == "weights" or f"{part}.safetensors" in files
            }
            return Saved(state=dict(json.loads(_listed_part(folder, "state.json", files))), **tensors)

    def read_weights(self, name: str) -> Tensors:
        """The weights of the checkpoint `name`, checked; its other parts may be damaged. Raises CheckpointError."""
        with self._damage_told(name) as folder:
            return parse_tensors(_listed_part(folder, "weights.safetensors", _manifest(folder)))

    @contextlib.contextmanager
    def _damage_told(self, name: str) -> Iterator[Path]:
        """The folder of the checkpoint `name`; what is wrong with its contents becomes a CheckpointError."""
        folder = self.path / name
        if not _NAME.fullmatch(name) or folder.is_symlink():
            raise CheckpointError(f"{folder}: is no checkpoint")
        try:
            yield folder
        except _DAMAGE as error:
            raise CheckpointError(f"{folder}: damaged: {error}") from None

    def intact(self) -> Iterator[tuple[str, Saved]]:
        """The checkpoints that can be read, newest first; a warning names each that can't."""
        for name in reversed(self.names()):
            try:
                saved = self.read(name)
            except CheckpointError as error:
                warnings.warn(f"{error}; it is passed over for an older one", stacklevel=2)
            else:
                yield name, saved


def name_of(step: int) -> str:
    """The name of the checkpoint of `step`."""
    return f"step-{step:08d}"


def step_of(name: str) -> int:
    """The step of the checkpoint `name`."""
    return int(name.removeprefix("step-"))


def _write_parts(folder: Path, saved: Saved) -> None:
    """Write all files of a checkpoint and sync them; their sums are made beside the writing."""
    parts = {"state.json": json.dumps(saved.state).encode()}
    for part in _TENSOR_PARTS:
        tensors = getattr(saved, part)
        if tensors or part == "weights":
            contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
            parts[f"{part}.safetensors"] = format_tensors(contiguous)
    with ThreadPoolExecutor(1) as beside:
        sums = {name: beside.submit(hashlib.sha256, data) for name, data in parts.items()}
        for name, data in parts.items():
            write_new_file(folder / name, data)
    files = {name: {"size": len(data), "sha256": sums[name].result().hexdigest()} for name, data in parts.items()}
    write_new_file(folder / "MANIFEST.json", json.dumps({"format": 1, "files": files}, indent=1).encode())
    sync_folder(folder)
    folder.chmod(0o755)  # mkdtemp's 0700 would hide results from one's group


def _manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads(_read_part(folder, "MANIFEST.json", _SMALL))["files"])


def _listed_part(folder: Path, name: str, files: dict[str, Any]) -> bytes:
    """A part that the manifest lists, if it is what it says there."""
    size, digest = files[name]["size"], files[name]["sha256"]
    data = _read_part(folder, name, size)
    if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"{folder / name}: damaged, its size or SHA-256 is not that of the manifest")
    return data


def _read_part(folder: Path, name: str, most: int) -> bytes:
    """At most `most` bytes of a part, and one more if there are more. No link, no pipe is followed."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise CheckpointError(f"{folder / name}: is no file")
            return file.read(min(most, about.st_size) + 1)
    except OSError as error:
        raise CheckpointError(f"{folder / name}: cannot be read: {error.strerror}") from None
