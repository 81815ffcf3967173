"""The whole program, used by strangers: broken requests, many clients at once, and its end."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from asked_server import SECONDS, asked, encoded, multipart, predicted, sent_raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cifar_hapi import predict

GOOD = encoded(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
FILES = [encoded(Image.open(io.BytesIO(GOOD)), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]


class Program:
    """The command in a process of its own."""

    def __init__(self, run, *options):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cifar_hapi", "serve", str(run.path), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.first = self.process.stdout.readline()
        self.port = int(re.search(r":(\d+)/", self.first)[1])

    @property
    def memory(self):
        """Megabytes of memory that it has."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1000


@pytest.fixture(scope="module")
def program(run):
    found = Program(run, "--max-batch", "16", "--receive-seconds", "10")
    yield found
    if found.process.poll() is None:
        found.process.kill()
        found.process.communicate()


def well(program):
    """Whether it answers an honest request."""
    return predicted(program.port, ("a.png", GOOD)).status == 200


@st.composite
def damaged_files(draw):
    content = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 5))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))])


MULTIPART = "multipart/form-data; boundary=between"
KINDS = st.sampled_from(
    [MULTIPART] * 6 + ["image/png"] * 2 + ["multipart/form-data", "application/json", "text/plain", ""]
)
BODIES = st.one_of(
    st.binary(max_size=300),
    damaged_files(),
    st.just(multipart(("a.png", GOOD))),
    damaged_files().map(lambda content: multipart(("a.png", content))),
    st.tuples(damaged_files(), st.integers(0, 400)).map(lambda each: multipart(("a", each[0]), ("b", GOOD))[: each[1]]),
    st.integers(30, 40).map(lambda count: multipart(*[("x", b"")] * count)),
)
PATHS = st.sampled_from(["/predict"] * 14 + ["/", "/run", "/nothing", "/predict?seen=x", "/%2e%2e/etc", "//"])
METHODS = st.sampled_from(["POST"] * 14 + ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "BREW"])
HOSTS = st.sampled_from(["localhost"] * 17 + ["evil.example", "[", "a b"])


def memory_of_a_used(program):
    """Megabytes, after what is only made once has been."""
    for _ in range(20):
        assert predicted(program.port, *[("a.png", file) for file in FILES]).status == 200
    return program.memory


def test_600_requests_whose_content_is_wrong_are_answered_in_one_sentence(program):
    seen = Counter()

    @settings(max_examples=600, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(METHODS, PATHS, KINDS, BODIES, HOSTS)
    def ask(method, path, kind, body, host):
        found = asked(program.port, path, body, method, content_type=kind, host=host)
        seen[found.status] += 1
        assert found.status < 500
        if found.status >= 400 and method != "HEAD":
            sentence = found.content["error"]
            assert sentence and "\n" not in sentence and "Traceback" not in sentence

    before = memory_of_a_used(program)
    ask()
    assert {200, 400, 404, 405, 413, 415, 421, 422} <= set(seen) and seen.total() >= 600, seen
    assert well(program) and program.memory - before < 16


def huge(name, value):
    return b"GET / HTTP/1.1\r\nHost: localhost\r\n" + name + b": " + value + b"\r\n\r\n"


POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
RAW = st.one_of(
    st.binary(min_size=1, max_size=200).map(lambda data: data + b"\r\n\r\n"),
    st.binary(min_size=1, max_size=60).map(lambda data: data + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    st.integers(1, 200_000).map(lambda size: huge(b"X", size * b"y")),
    st.integers(1, 5000).map(lambda count: huge(b"X", b"y\r\nX: " * count)),
    st.integers(1, 5000).map(lambda digits: POST + b"Content-Length: " + digits * b"9" + b"\r\n\r\n"),
    st.sampled_from([b"-1", b"0x10", b"1, 2", b"+5", b" ", b"1\r\nContent-Length: 2"]).map(
        lambda length: POST + b"Content-Length: " + length + b"\r\n\r\nabc"
    ),
    st.binary(max_size=100).map(lambda data: POST + b"Transfer-Encoding: chunked\r\n\r\n" + data + b"\r\n\r\n"),
    st.binary(max_size=100).map(
        lambda data: POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n" + data
    ),
    st.binary(max_size=50).map(lambda data: POST + b"Content-Length: 5\r\n\r\nhello" + data + b"\r\n\r\n"),
    st.sampled_from([b"websocket", b"h2c"]).map(lambda kind: huge(b"Connection: Upgrade\r\nUpgrade", kind)),
    st.sampled_from(
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n", b"\x16\x03\x01\x02\0\1\0"]
    ),
)


def test_400_requests_that_are_hardly_http_get_no_error_of_ours(program):
    seen = Counter()

    @settings(max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(RAW)
    def ask(data):
        found = sent_raw(program.port, data, seconds=0.02)
        status = int(found[9:12]) if found else None
        seen[status] += 1
        assert status is None or (found.startswith(b"HTTP/1.1 ") and status < 500)

    before = memory_of_a_used(program)
    ask()
    assert seen[400] > 50 and seen.total() >= 400, seen
    assert program.memory - before < 16
    found = sent_raw(program.port, b"no HTTP\r\n\r\n")
    head, _, body = found.partition(b"\r\n\r\n")
    assert b"content-security-policy" in head and json.loads(body) == {
        "error": "this is no request of HTTP/1.1, or its head is too long"
    }
    assert well(program)


def test_clients_that_leave_in_the_middle_leave_nothing_behind(program):
    request = POST + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD
    for size in range(0, len(request) + 1, 40):
        with socket.create_connection(("127.0.0.1", program.port)) as connection:
            connection.sendall(request[:size])
    assert well(program)
    assert asked(program.port, "/healthz").content["waiting"] == 0


def test_64_clients_at_once_lose_nothing_and_memory_stays(program, run, images):
    expected = predict(run, images[:64]).probabilities

    def client(number):
        """The largest difference to what `predict` says of the client's own image."""
        file = ("a.png", encoded(images[number]))
        found = [predicted(program.port, file).content["images"][0]["probabilities"] for _ in range(4)]
        return max(np.abs(np.array(list(each.values())) - expected[number]).max() for each in found)

    with ThreadPoolExecutor(64) as clients:
        assert max(clients.map(client, range(64))) < 1e-6  # other images differ by a thousand times that
        before = program.memory
        for _ in range(2):
            assert max(clients.map(client, range(64))) < 1e-6
    assert np.abs(expected[1:] - expected[:-1]).max(axis=1).min() > 1e-5
    assert program.memory - before < 16
    assert asked(program.port, "/healthz").content == {"status": "ok", "waiting": 0}


def test_large_images_take_memory_once(program):
    large = encoded(Image.new("L", (5000, 4000)))  # 20 million pixels: as many as are allowed
    assert predicted(program.port, ("a.png", large), ("b.png", large)).status == 200
    before = program.memory
    assert predicted(program.port, ("a.png", large), ("b.png", large)).status == 200
    for _ in range(20):
        assert predicted(program.port, ("a.png", encoded(Image.new("1", (5001, 4000))))).status == 413
    assert program.memory - before < 100


def test_it_says_where_it_is_and_after_ctrl_c_answers_what_has_been_asked(program, run):
    assert program.first == f"run {run.path} is served at http://127.0.0.1:{program.port}/ (Ctrl-C ends it)\n"
    place = ("127.0.0.1", program.port)
    with socket.create_connection(place, timeout=SECONDS) as asking, socket.create_connection(place):
        asking.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD[:10])
        assert well(program)  # by then the first is being received
        program.process.send_signal(signal.SIGINT)
        said = program.process.stderr.readline() + program.process.stderr.readline()
        asking.sendall(GOOD[10:])
        assert asking.recv(15) == b"HTTP/1.1 200 OK"
        out, more = program.process.communicate(timeout=SECONDS)
    assert program.process.returncode == 130 and out == ""
    assert said + more == "\nanswering what has been asked; once more ends it at once\n\ninterrupted\n"
