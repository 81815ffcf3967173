"""From the images of a request to what the network says of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from cifar_hapi.serving.batching import Answer, Batcher
from cifar_hapi.serving.multipart import Part
from cifar_hapi.serving.options import ServingOptions
from cifar_hapi.serving.refusal import Refusal, printable
from cifar_hapi.serving.upload import decode_upload


@dataclass(frozen=True, eq=False)
class Answered:
    """An image of a request. name: of its file. seen: uint8 [S, S, 3], what the network saw. decode: seconds."""

    name: str
    seen: np.ndarray
    decode: float
    answer: Answer


class Admission:
    """Counts the images that are decoded and wait; there is room for so many."""

    def __init__(self, room: int) -> None:
        self._room, self.count = room, 0

    @contextmanager
    def admitted(self, images: int) -> Iterator[None]:
        """Raises Refusal 503 where there is no room for all of them."""
        if self.count + images > self._room:
            raise Refusal(503, "too many images are waiting; try again", retry_after=1)
        self.count += images
        try:
            yield
        finally:
            self.count -= images


class Answering:
    """Decodes the images of requests in the threads of `decoders` and has them classified by `batcher`."""

    def __init__(
        self, options: ServingOptions, side: int, admission: Admission, decoders: Executor, batcher: Batcher
    ) -> None:
        self._options, self._side, self._admission = options, side, admission
        self._decoders, self._batcher = decoders, batcher

    @property
    def waiting(self) -> int:
        """How many images are decoded or wait."""
        return self._admission.count

    def check(self) -> None:
        """Raises Refusal, 503, where the network's thread is no more."""
        if not self._batcher.alive:
            raise Refusal(503, "the network's thread has ended; start the server anew")

    async def answers(self, parts: Sequence[Part]) -> list[Answered]:
        """What the network says of each image, in their order.

        Raises Refusal: see `check`, `Admission` and `decode_upload`, the last for the first image that it refuses, and
        503 for a wait of more than `wait_seconds`.
        """
        self.check()
        with self._admission.admitted(len(parts)):
            try:
                return await asyncio.wait_for(self._all(parts), self._options.wait_seconds)
            except asyncio.TimeoutError:
                sentence = f"no answer within {self._options.wait_seconds:g} s: too much is waiting; try again"
                raise Refusal(503, sentence, retry_after=1) from None

    async def _all(self, parts: Sequence[Part]) -> list[Answered]:
        loop = asyncio.get_running_loop()
        decoding = [loop.run_in_executor(self._decoders, self._decoded, part.content) for part in parts]
        found = await asyncio.gather(*decoding, return_exceptions=True)  # all, so that none goes on unheeded
        decoded = [_or_refusal(each, number, parts) for number, each in enumerate(found)]
        waiting = [asyncio.wrap_future(self._batcher.submit(image)) for image, _ in decoded]
        answers = await asyncio.gather(*waiting)
        return [
            Answered(_name(part, number), image, seconds, answer)
            for number, (part, (image, seconds), answer) in enumerate(zip(parts, decoded, answers, strict=True))
        ]

    def _decoded(self, content: bytes) -> tuple[np.ndarray, float]:
        """The image, and how many seconds that took."""
        begun = time.perf_counter()
        image = decode_upload(content, self._side, self._options.pixels)
        return image, time.perf_counter() - begun


def _or_refusal(
    found: tuple[np.ndarray, float] | BaseException, number: int, parts: Sequence[Part]
) -> tuple[np.ndarray, float]:
    """What was decoded; or the refusal is raised, which says of which image it is."""
    if isinstance(found, Refusal):
        name = _name(parts[number], number)
        which = f"{name} (image {number + 1} of {len(parts)})" if len(parts) > 1 else name
        raise Refusal(found.status, f"{which}: {found.sentence}", place=(number, name)) from None
    if isinstance(found, BaseException):
        raise found
    return found


def _name(part: Part, number: int) -> str:
    return printable(part.name) or f"image {number + 1}"
