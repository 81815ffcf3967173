"""What a run records of the data it has seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class PartIdentity:
    """How many images a part has, and the SHA-256 over its pixels and labels."""

    images: int
    sha256: str


def _with_test(parts: dict[str, PartIdentity]) -> dict[str, PartIdentity]:
    if "test" not in parts:
        raise ValueError("no test set")
    return parts


_Three = Field(min_length=3, max_length=3)
Channels = Annotated[tuple[float, ...], _Three]
PositiveChannels = Annotated[tuple[Annotated[float, Field(gt=0)], ...], _Three]
Parts = Annotated[dict[str, PartIdentity], AfterValidator(_with_test)]


@dataclass(frozen=True, kw_only=True)
class DataIdentity:
    """Enough to find the same data again, to tell whether it is the same, and to prepare new images as its were.

    name, source, note, mean, std: as in `Data`. parts: "train", "test", and "val" where images were held out.
    """

    name: str
    source: str
    note: str
    class_names: Annotated[tuple[str, ...], Field(min_length=1)]
    mean: Channels
    std: PositiveChannels
    parts: Parts

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in run.json."""
        return dataclasses.asdict(self)


def for_others(name: str, note: str) -> dict[str, str]:
    """`name` and `note` of data as they are given away: of a folder of images, not where it is on this machine."""
    if not Path(name).is_absolute():
        return {"name": name, "note": note}
    return {"name": Path(name).name, "note": note.partition(": ")[0]}  # of images left out, how many
