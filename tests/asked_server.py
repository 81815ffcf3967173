"""A server of a run in this process, and a client that says what it likes."""

from __future__ import annotations

import io
import json
import signal
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection

import pytest
from PIL import Image

from callbacks.signals import SignalWatch
from cifar_hapi.serving.address import Address
from cifar_hapi.serving.options import ServingOptions

SECONDS = 30  # that nothing takes


@contextmanager
def served(run, allow_hosts=(), weights="latest", **limits):
    """The port of a server of `run` on loopback."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from cifar_hapi.serving.server import prepared_server

    watch, begun = SignalWatch(), threading.Event()
    address, options, urls = Address.of("127.0.0.1", 0), ServingOptions(**limits), []

    def on_start(url):
        urls.append(url)
        begun.set()

    network = (weights, None, "cpu")
    with prepared_server(run, address, allow_hosts, *network, options, watch, on_start) as answer:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            assert begun.wait(SECONDS)
            yield int(urls[0].rstrip("/").rpartition(":")[2])
        finally:
            watch.received = signal.SIGTERM
            thread.join(SECONDS)
            assert not thread.is_alive()


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes

    @property
    def content(self):
        return json.loads(self.body)


def asked(port, path="/predict", body=None, method=None, **headers):
    """The reply to one request on a connection of its own; of headers "_" is "-"."""
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        found = connection.getresponse()
        return Reply(found.status, {key.lower(): value for key, value in found.getheaders()}, found.read())
    finally:
        connection.close()


def predicted(port, *files, path="/predict"):
    """The reply to the images `files`, each (name, content), in one request."""
    return asked(port, path, multipart(*files), content_type="multipart/form-data; boundary=between")


def multipart(*files):
    head = b'--between\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\n'
    return b"".join(head % name.encode() + content + b"\r\n" for name, content in files) + b"--between--\r\n"


def sent_raw(port, data, seconds=SECONDS):
    """What comes back for bytes as they are, until the server closes or says nothing for so long."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        found = b""
        try:
            connection.sendall(data)
            while chunk := connection.recv(65536):
                found += chunk
        except (TimeoutError, ConnectionError):
            pass  # closed while we were sending, or silent: what came before that counts
        return found


def encoded(pixels, format="PNG", **options):
    """The file of an image, uint8 [H, W, 3] or one of Pillow's."""
    image, file = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels), io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
