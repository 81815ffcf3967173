from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from cifar_hapi.data import download
from cifar_hapi.data.download import ARCHIVES, RemoteFile, fetch
from cifar_hapi.errors import DataError

CONTENT = np.random.default_rng(0).bytes(200_000)
OTHER = np.random.default_rng(1).bytes(200_000)
HALF = len(CONTENT) // 2

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request to a mirror, answered by the next of the mirror's answers; the last one stays."""

    server: Mirror

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers["Range"])
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    @property
    def first(self) -> int:
        return int((self.headers["Range"] or "bytes=0-")[len("bytes=") : -1])

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class Mirror(ThreadingHTTPServer):
    """A server on this machine; `ranges` holds the Range header of each request."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answers = list(answers)
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/file.bin"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


def whole(request: Request, content: bytes = CONTENT) -> None:
    """All of it, as a server does that knows no ranges."""
    request.head(200, Content_Length=len(content))
    request.wfile.write(content)


def ranged(request: Request, content: bytes = CONTENT) -> None:
    first = request.first
    if first == 0:
        whole(request, content)
    elif first >= len(content):
        request.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
    else:
        rest = content[first:]
        span = f"bytes {first}-{len(content) - 1}/{len(content)}"
        request.head(206, Content_Range=span, Content_Length=len(rest))
        request.wfile.write(rest)


def other(request: Request) -> None:
    ranged(request, OTHER)


def shorter(request: Request) -> None:
    ranged(request, CONTENT[:-1])


def cut(request: Request) -> None:
    """Half of what it promises."""
    request.head(200, Content_Length=len(CONTENT))
    request.wfile.write(CONTENT[:HALF])


def wrong_range(request: Request) -> None:
    request.head(206, Content_Range=f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}", Content_Length=HALF)
    request.wfile.write(CONTENT[:HALF])


def gzip_encoded(request: Request) -> None:
    request.head(200, Content_Length=len(CONTENT), Content_Encoding="gzip")
    request.wfile.write(CONTENT)


def compressed_if_accepted(request: Request) -> None:
    accepts = "gzip" in request.headers.get("Accept-Encoding", "gzip")
    whole(request, gzip.compress(CONTENT) if accepts else CONTENT)


def until_closed(request: Request) -> None:
    request.head(200)
    request.wfile.write(CONTENT)


def cut_unannounced(request: Request) -> None:
    """Half of the file, without a word on how much it should be."""
    request.head(200)
    request.wfile.write(CONTENT[:HALF])


def too_much(request: Request) -> None:
    """More than the archive has, without saying so."""
    request.head(200)
    with contextlib.suppress(OSError):  # the client has had enough
        request.wfile.write(CONTENT + bytes(10_000_000))


def status(code: int) -> Answer:
    return lambda request: request.head(code, Content_Length=0)


@pytest.fixture
def mirror() -> Iterator[Callable[..., Mirror]]:
    """Starts a mirror with these answers."""
    mirrors: list[Mirror] = []

    def start(*answers: Answer) -> Mirror:
        mirrors.append(Mirror(*answers))
        return mirrors[-1]

    yield start
    for server in mirrors:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def archive(*mirrors: Mirror | str, size: int | None = len(CONTENT)) -> RemoteFile:
    urls = tuple(mirror if isinstance(mirror, str) else mirror.url for mirror in mirrors)
    return RemoteFile("file.bin", hashlib.md5(CONTENT).hexdigest(), size, urls)


def refused() -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/file.bin"


def assert_complete(path: Path, folder: Path) -> None:
    assert path == folder / "file.bin"
    assert path.read_bytes() == CONTENT
    assert not (folder / "file.bin.part").exists()


Start = Callable[..., Mirror]


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("answer", [whole, ranged, gzip_encoded, compressed_if_accepted, until_closed])
def test_a_file_is_downloaded_whole(mirror: Start, tmp_path: Path, answer: Answer, size: int | None) -> None:
    server = mirror(answer)
    assert_complete(fetch(archive(server, size=size), tmp_path / "new" / "folder"), tmp_path / "new" / "folder")
    assert server.ranges == [None]


def test_a_complete_file_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT)
    assert_complete(fetch(archive(), tmp_path), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], OTHER])
def test_a_file_with_another_sum_is_not_trusted(mirror: Start, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.bin").write_bytes(content)
    assert_complete(fetch(archive(mirror(whole)), tmp_path), tmp_path)


def test_a_file_with_another_sum_is_named_when_there_is_no_network(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(OTHER)
    with pytest.raises(DataError, match=r"the file\.bin that is there has another MD5 sum"):
        fetch(archive(refused()), tmp_path)


# --- going on ---


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_cut_download_goes_on_where_it_stopped(mirror: Start, tmp_path: Path, size: int | None) -> None:
    server = mirror(cut, ranged)
    assert_complete(fetch(archive(server, size=size), tmp_path), tmp_path)
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_cut_is_seen_by_the_known_size_alone(mirror: Start, tmp_path: Path) -> None:
    server = mirror(cut_unannounced, ranged)
    assert_complete(fetch(archive(server), tmp_path), tmp_path)
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_cut_that_cannot_be_seen_is_found_by_the_sum(mirror: Start, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another MD5 sum"):
        fetch(archive(mirror(cut_unannounced), size=None), tmp_path)
    assert list(tmp_path.glob("file.bin*")) in ([], [tmp_path / "file.bin.lock"])


def test_a_cut_download_goes_on_at_the_next_mirror(mirror: Start, tmp_path: Path) -> None:
    first, second = mirror(cut, status(503)), mirror(ranged)
    assert_complete(fetch(archive(first, second), tmp_path), tmp_path)
    assert second.ranges == [f"bytes={HALF}-"]


def test_a_cut_download_goes_on_in_the_next_call(mirror: Start, tmp_path: Path) -> None:
    server = mirror(cut, status(503), ranged)
    with pytest.raises(DataError, match="100,000 bytes are kept for the next try"):
        fetch(archive(server), tmp_path)
    assert not (tmp_path / "file.bin").exists()
    assert_complete(fetch(archive(server), tmp_path), tmp_path)
    assert server.ranges == [None, f"bytes={HALF}-", f"bytes={HALF}-"]


def test_a_silent_server_is_left_and_asked_again(mirror: Start, tmp_path: Path) -> None:
    end = threading.Event()

    def silent_after_half(request: Request) -> None:
        cut(request)
        request.wfile.flush()
        end.wait()

    server = mirror(silent_after_half, ranged)
    assert_complete(fetch(archive(server), tmp_path, timeout=1.0), tmp_path)
    end.set()
    assert server.ranges == [None, "bytes=65536-"]  # whole chunks arrived


def test_a_server_that_always_cuts_is_given_up(mirror: Start, tmp_path: Path) -> None:
    server = mirror(cut)
    with pytest.raises(DataError, match=r"100000 more expected|100,000 of 200,000"):
        fetch(archive(server), tmp_path)
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_server_that_drips_is_given_up(mirror: Start, tmp_path: Path) -> None:
    def a_little_more(request: Request) -> None:
        span = f"bytes {request.first}-{len(CONTENT) - 1}/{len(CONTENT)}"
        request.head(206, Content_Range=span, Content_Length=len(CONTENT) - request.first)
        request.wfile.write(CONTENT[request.first : request.first + 1])

    server = mirror(a_little_more)
    with pytest.raises(DataError, match="the connection was cut 10 times"):
        fetch(archive(server), tmp_path)
    assert len(server.ranges) == 10


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize(
    ("part", "answer", "ranges"),
    [
        pytest.param(CONTENT[:HALF], ranged, ["bytes=100000-"], id="half"),
        pytest.param(CONTENT[:HALF], whole, ["bytes=100000-"], id="half, server without ranges"),
        pytest.param(OTHER[:HALF], ranged, ["bytes=100000-", None], id="half of another file"),
        pytest.param(OTHER[:HALF], whole, ["bytes=100000-"], id="half of another, without ranges"),
        pytest.param(CONTENT + b"x", ranged, ["bytes=200001-", None], id="too long"),
        pytest.param(b"", ranged, [None], id="empty"),
    ],
)
def test_a_part_that_was_left_is_gone_on_from(
    mirror: Start, tmp_path: Path, part: bytes, answer: Answer, ranges: list[str | None], size: int | None
) -> None:
    (tmp_path / "file.bin.part").write_bytes(part)
    server = mirror(answer)
    assert_complete(fetch(archive(server, size=size), tmp_path), tmp_path)
    assert server.ranges == ranges


def test_a_whole_part_is_taken_without_network(tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert_complete(fetch(archive(refused()), tmp_path), tmp_path)


def test_a_whole_part_of_unknown_size_is_recognised(mirror: Start, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    server = mirror(ranged)
    assert_complete(fetch(archive(server, size=None), tmp_path), tmp_path)
    assert server.ranges == ["bytes=200000-"]  # answered with 416


def test_a_whole_part_with_another_sum_is_begun_again(mirror: Start, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(OTHER)
    server = mirror(ranged)
    assert_complete(fetch(archive(server), tmp_path), tmp_path)
    assert server.ranges == [None]


# --- mirrors that fail ---


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize(
    ("answer", "part", "reason"),
    [
        pytest.param(status(404), b"", "HTTP status 404 Not Found", id="404"),
        pytest.param(status(500), b"", "HTTP status 500 Internal Server Error", id="500"),
        pytest.param(status(416), b"", "HTTP status 416", id="416 for the whole"),
        pytest.param(status(204), b"", "HTTP status 204", id="204"),
        pytest.param(other, b"", "what it serves has another MD5 sum", id="another file"),
        pytest.param(other, CONTENT[:HALF], "what it serves has another MD5 sum", id="another file, resumed"),
        pytest.param(wrong_range, CONTENT[:HALF], "it was asked for the bytes from 100,000", id="wrong range"),
    ],
)
def test_a_failing_mirror_is_passed_over(
    mirror: Start, tmp_path: Path, answer: Answer, part: bytes, reason: str, size: int | None
) -> None:
    if part:
        (tmp_path / "file.bin.part").write_bytes(part)
    with pytest.raises(DataError, match=reason):
        fetch(archive(mirror(answer), size=size), tmp_path)
    assert not (tmp_path / "file.bin").exists()
    assert_complete(fetch(archive(mirror(answer), mirror(ranged), size=size), tmp_path), tmp_path)


def test_a_file_of_another_size_is_not_even_begun(mirror: Start, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:HALF])
    with pytest.raises(DataError, match="its file has 199,999 bytes instead of 200,000"):
        fetch(archive(mirror(shorter)), tmp_path)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_too_large_an_answer_is_cut_off(
    mirror: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    monkeypatch.setattr(download, "_LARGEST", len(CONTENT))
    with pytest.raises(DataError, match="it sends more than 200,000 bytes"):
        fetch(archive(mirror(too_much), size=size), tmp_path)
    assert (tmp_path / "file.bin.part").stat().st_size == 0
    assert_complete(fetch(archive(mirror(too_much), mirror(ranged), size=size), tmp_path), tmp_path)


def test_a_refused_connection_is_passed_over(mirror: Start, tmp_path: Path) -> None:
    assert_complete(fetch(archive(refused(), mirror(whole)), tmp_path), tmp_path)


def test_a_server_that_never_answers_is_passed_over(mirror: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file.bin"
        with pytest.raises(DataError, match=f"{url}: timed out"):
            fetch(archive(url), tmp_path, timeout=0.1)
        assert_complete(fetch(archive(url, mirror(whole)), tmp_path, timeout=1.0), tmp_path)


def test_an_unknown_name_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unknown(host: str, *args: object) -> None:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DataError) as error:
        fetch(ARCHIVES["cifar10"], tmp_path)
    assert asked == ["www.cs.toronto.edu", "dataset.bj.bcebos.com"]
    assert str(error.value) == (
        "cannot download cifar-10-python.tar.gz: "
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz: Name or service not known; "
        "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz: Name or service not known; "
        f"try again, put the file (MD5 c58f30108f718f92721af3b95e74349a) into {tmp_path} by hand, "
        "or name a folder that has it (--data-dir, CIFAR_HAPI_DATA), or use --data synthetic"
    )


def test_a_name_server_that_never_answers_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: end.wait(20))
    with pytest.raises(DataError, match=r"its name was not resolved within 0\.05 s"):
        fetch(ARCHIVES["cifar10"], tmp_path, timeout=0.05)
    end.set()


def test_the_name_is_left_to_the_proxy_where_there_is_one(
    mirror: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", mirror(whole).url)
    assert_complete(fetch(archive("http://name.invalid/file.bin"), tmp_path), tmp_path)


# --- folders that fail ---


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match=r"taken/file\.bin: cannot be read or written: Not a directory"):
        fetch(archive(refused()), tmp_path / "taken")


def test_a_full_disk_is_named_and_the_part_kept(mirror: Start, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, limits[1]))
    try:
        with pytest.raises(DataError, match=r"file\.bin: cannot be read or written: File too large"):
            fetch(archive(mirror(whole)), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "file.bin").exists()
    assert_complete(fetch(archive(mirror(ranged)), tmp_path), tmp_path)


# --- processes and what they print ---


def test_of_two_processes_one_downloads_and_the_other_waits(mirror: Start, tmp_path: Path) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hold_back(request: Request) -> None:
        asked.set()
        answer.wait(60)
        whole(request)

    server = mirror(hold_back)
    code = (
        "from pathlib import Path; from cifar_hapi.data.download import RemoteFile, fetch; "
        f"fetch({archive(server)!r}, Path({str(tmp_path)!r}), progress=True)"
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)

    with start() as first:
        assert asked.wait(60)
        with start() as second:
            assert second.stderr is not None
            assert second.stderr.readline() == f"waiting for another process that downloads to {tmp_path}\n"
            answer.set()
            assert second.wait(60) == first.wait(60) == 0
    assert server.ranges == [None]
    assert_complete(tmp_path / "file.bin", tmp_path)


def test_progress_is_one_line_a_mirror_where_there_is_no_terminal(
    mirror: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = (refused(), mirror(whole).url)
    fetch(archive(*urls), tmp_path, progress=True)
    printed = capsys.readouterr()
    assert printed.err.split("\n") == [f"downloading {url} to {tmp_path}" for url in urls] + [""]
    assert printed.out == ""


def test_nothing_is_printed_unless_asked_for(mirror: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(archive(refused(), mirror(cut, ranged)), tmp_path)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_a_bar(mirror: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    fetch(archive(mirror(whole)), tmp_path, progress=True)
    assert "200.0/200.0 kB" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_the_official_archives_are_those_that_paddle_knows() -> None:
    cifar = pytest.importorskip("paddle.vision.datasets.cifar")
    for name, url, md5 in (
        ("cifar10", cifar.CIFAR10_URL, cifar.CIFAR10_MD5),
        ("cifar100", cifar.CIFAR100_URL, cifar.CIFAR100_MD5),
    ):
        assert url in ARCHIVES[name].urls
        assert md5 == ARCHIVES[name].md5
        assert url.endswith(ARCHIVES[name].file_name)
