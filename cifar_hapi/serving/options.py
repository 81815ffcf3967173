"""What a server takes, how much of it, and how long it waits: each limit with its default and its option."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any

from cifar_hapi.errors import RecipeError

MEBIBYTE = 2**20
_MOST_PIXELS = 89_478_485  # Pillow's MAX_IMAGE_PIXELS, above which it reads no image here


def _limit(default: float, option: str, text: str, unit: float = 1) -> Any:
    """unit: what the number on the command line is multiplied by."""
    return field(default=default, metadata={"option": option, "text": text, "unit": unit})


@dataclass(frozen=True)
class ServingOptions:
    """The limits of a server. Raises RecipeError for those that cannot be.

    batch: most images in one forward pass. gather_seconds: how long the first of a batch waits for others. queue:
    images that may be decoded and wait at the same time; beyond, requests are answered 503. images: most in one
    request. body: most bytes of a request. memory: most bytes of all bodies that are held at the same time. pixels:
    most of one image, told by its header before it is decoded. connections: most at the same time. receive_seconds: how
    long a request may take to arrive. wait_seconds: how long it may wait for its answer from then on. decoders: threads
    that decode images.
    """

    batch: int = _limit(64, "--max-batch", "Most images in one forward pass.")
    gather_seconds: float = _limit(0.002, "--gather-ms", "How long the first image of a batch waits for others.", 1e-3)
    queue: int = _limit(256, "--max-queue", "Most images that wait; beyond, requests are answered 503.")
    images: int = _limit(32, "--max-images", "Most images in one request.")
    body: int = _limit(16 * MEBIBYTE, "--max-body", "Most mebibytes of one request.", MEBIBYTE)
    memory: int = _limit(128 * MEBIBYTE, "--max-memory", "Most mebibytes of all requests held together.", MEBIBYTE)
    pixels: int = _limit(20_000_000, "--max-pixels", "Most millions of pixels of one image.", 1e6)
    connections: int = _limit(256, "--max-connections", "Most connections at the same time.")
    receive_seconds: float = _limit(20.0, "--receive-seconds", "How long a request may take to arrive.")
    wait_seconds: float = _limit(20.0, "--wait-seconds", "How long it may then wait for its answer.")
    decoders: int = _limit(2, "--decoders", "Threads that decode images.")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0 and not (each.name == "gather_seconds" and value == 0):
                raise RecipeError(f"{each.name} = {value}: must be above 0")
        if self.pixels > _MOST_PIXELS:
            raise RecipeError(f"pixels = {self.pixels:,}: must be at most {_MOST_PIXELS:,}, above which Pillow refuses")
        if self.queue < self.images:
            raise RecipeError(f"queue = {self.queue}: must hold the {self.images} images of one request")
        if self.memory < self.body:
            raise RecipeError(f"memory = {self.memory:,} bytes: must hold the {self.body:,} bytes of one request")

    @classmethod
    def from_command_line(cls, **numbers: float) -> ServingOptions:
        """numbers: by field, each in the unit of its option."""
        return cls(**{each.name: in_field(each, numbers[each.name]) for each in fields(cls)})

    @property
    def answer_seconds(self) -> float:
        """How long a request may take in all, with the answer on its way."""
        return self.receive_seconds + self.wait_seconds + 5.0


def in_field(limit: Field[Any], number: float) -> Any:
    """What a number on the command line is in the field."""
    value = number * limit.metadata["unit"]
    return round(value) if isinstance(limit.default, int) else value


def on_command_line(limit: Field[Any]) -> Any:
    """The default, in the unit of the option: an integer where that counts, else a float."""
    counts = isinstance(limit.default, int) and limit.metadata["unit"] == 1
    return limit.default if counts else limit.default / limit.metadata["unit"]
