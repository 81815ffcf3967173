"""The body of a request, received into memory and into nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from cifar_hapi.serving.options import ServingOptions
from cifar_hapi.serving.refusal import Refusal


class Gone(Exception):
    """Whoever sent the request has left."""


class BodyReceiver:
    """Receives bodies within the limits of a body, of all that are held together, and of time."""

    def __init__(self, options: ServingOptions) -> None:
        self._options = options
        self.held = 0  # bytes

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[bytearray]:
        """The body of `request`; it counts as held until this is left, also when it has been cleared.

        Raises Refusal: 413 for too many bytes, also where none say how many there will be, 408 for too slow ones, 503
        where memory for bodies is used up. Raises Gone for a client that leaves.
        """
        body, size = bytearray(), 0
        try:
            await self._arrived(request, body)
            size = len(body)
            yield body
        finally:
            self.held -= size or len(body)

    async def _arrived(self, request: Request, body: bytearray) -> None:
        try:
            await asyncio.wait_for(self._receive(request, body), self._options.receive_seconds)
        except asyncio.TimeoutError:
            raise Refusal(408, f"the request took more than {self._options.receive_seconds:g} s to arrive") from None
        except ClientDisconnect:
            raise Gone from None

    async def _receive(self, request: Request, body: bytearray) -> None:
        self._check(int(request.headers.get("content-length", 0)))
        async for chunk in request.stream():
            self._check(len(body) + len(chunk))
            if self.held + len(chunk) > self._options.memory:
                raise Refusal(503, "too many images are being received; try again", retry_after=1)
            body += chunk
            self.held += len(chunk)

    def _check(self, size: int) -> None:
        if size > self._options.body:
            raise Refusal(413, f"the request has more than {self._options.body:,} bytes")
