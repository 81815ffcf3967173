"""The guard of a server that listens on every address of its machine."""

from __future__ import annotations

import asyncio

import pytest

from cifar_hapi.serving.guard import Guard


async def well(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def status(guard, host):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(guard({"type": "http", "headers": [(b"host", host)]}, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("host", "everywhere", "here"),
    [
        (b"192.168.0.7:8000", 200, 421),
        (b"[2001:db8::1]:8000", 200, 421),
        (b"evil.example", 421, 421),
        (b"mine", 200, 200),
    ],
)
def test_addresses_are_hosts_where_it_listens_on_all_of_them_as_rebound_names_are_none(host, everywhere, here):
    assert status(Guard(well, ["mine"], any_address=True), host) == everywhere
    assert status(Guard(well, ["mine"], any_address=False), host) == here
