"""What every request passes and every answer carries: is it meant for this server, and headers that shut others out."""

from __future__ import annotations

import ipaddress
import sys
import traceback
from collections.abc import Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cifar_hapi.errors import CifarHapiError
from cifar_hapi.serving.refusal import as_json

FAILED = "the server failed; its terminal says how"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Around the application: refuses requests for other hosts and from other sites' pages, adds headers.

    A page elsewhere whose name leads to this machine (DNS rebinding) gives itself away by the header Host. hosts: the
    names by which the server is asked, besides those of loopback. any_address: whether addresses are taken for hosts,
    too; a rebound name is none.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], any_address: bool) -> None:
        self._app, self._any_address = app, any_address
        self._hosts = {name.lower() for name in (*LOOPBACK, *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        guarded = _Sender(send)
        sent = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        refused = self._refused([value for name, value in sent if name == b"host"], dict(sent).get(b"origin"))
        if refused:
            await guarded.answer(*refused)
            return
        try:
            await self._app(scope, receive, guarded)
        except Exception as error:  # noqa: BLE001  # of ours: whoever asks learns that it was not his
            _tell(error)
            if not guarded.begun:
                await guarded.answer(500, FAILED)

    def _refused(self, hosts: list[str], origin: str | None) -> tuple[int, str] | None:
        """Status and sentence."""
        if len(hosts) != 1:
            return 400, "the request needs one header Host"
        if not self._is_own(_name(hosts[0])):
            return 421, "this server does not answer for that host; see --allow-host"
        if origin is not None and _netloc(origin) != hosts[0].lower():
            return 403, "pages of other sites cannot ask this server"
        return None

    def _is_own(self, name: str) -> bool:
        return name in self._hosts or (self._any_address and _is_address(name))


def _tell(error: Exception) -> None:
    """On standard error; tracebacks hold nothing of what was sent."""
    if isinstance(error, CifarHapiError):
        print(f"error: {error}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)


class _Sender:
    """Sends, with headers; notes that an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            message = {**message, "headers": [*message.get("headers", []), *raw_headers(message)]}
        await self._send(message)

    async def answer(self, status: int, sentence: str) -> None:
        body = as_json({"error": sentence})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def raw_headers(message: MutableMapping[str, Any] | None = None) -> list[tuple[bytes, bytes]]:
    """Those of `HEADERS`, and that nothing is to be kept unless the answer `message` says what is."""
    kept = any(name == b"cache-control" for name, _ in (message or {}).get("headers", []))
    every = HEADERS if kept else {**HEADERS, "cache-control": "no-store"}
    return [(name.encode(), value.encode()) for name, value in every.items()]


def _netloc(origin: str) -> str | None:
    """Name and port of an origin; None for one that has none, such as "null"."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _name(host: str) -> str:
    """A header Host without its port, and an address of IPv6 without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
