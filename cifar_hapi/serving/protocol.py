"""uvicorn's HTTP/1.1, with clocks for slow clients and JSON for what is no HTTP.

Used of uvicorn, which calls none of this private but documents little of it: `H11Protocol` with `conn`, `cycle`,
`transport`, `loop`, `connections`, `on_response_complete` and `send_400_response`; tests/serving tell where it changes.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from cifar_hapi.serving.guard import raw_headers
from cifar_hapi.serving.options import ServingOptions
from cifar_hapi.serving.refusal import as_json


class GuardedProtocol(H11Protocol):
    """A connection. options: how long a request's head may take to arrive, and all of a request to be answered."""

    def __init__(self, options: ServingOptions, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._options = options
        self._clock: asyncio.TimerHandle | None = None
        self._stage = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._options.connections:
            self._refuse(503, "too many connections; try again", (b"retry-after", b"1"))
        else:
            self._wind()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self._wind()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._stage = ""
        self._wind()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no request of HTTP/1.1, or its head is too long")

    def _wind(self) -> None:
        """Start the clock anew where something else is waited for."""
        heading = self.conn.their_state is h11.IDLE
        stage = "head" if heading else "answer"
        if stage == self._stage or self.transport.is_closing():
            return
        self._stop()
        self._stage = stage
        seconds = self._options.receive_seconds if heading else self._options.answer_seconds
        self._clock = self.loop.call_later(seconds, self._late)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        if self._stage == "head" and not self.transport.is_closing():
            self._refuse(408, f"the request's head took more than {self._options.receive_seconds:g} s to arrive")
        else:
            self.transport.abort()

    def _refuse(self, status: int, sentence: str, *more: tuple[bytes, bytes]) -> None:
        """Answer and close; only close where an answer has begun."""
        self._stop()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = as_json({"error": sentence})
            about = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            head = h11.Response(
                status_code=status, headers=[*about, *more, (b"connection", b"close"), *raw_headers()], reason=b""
            )
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
