"""Files from the network, fetched whole or not at all; the official archives are among them."""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from cifar_hapi.errors import DataError

_CHUNK = 1 << 16
_LARGEST = 1 << 30  # bytes taken of a file whose size is not known
_TRIES = 10  # at one mirror, as long as each brings something new
_CONNECT_SECONDS = 4.0  # for the name, and for the connection: without a network it must fail fast


@dataclass(frozen=True)
class RemoteFile:
    """A file with its MD5 sum, its size in bytes where it is known, and the mirrors to try, in order.

    instead, elsewhere: what errors advise where it cannot be had, and where its folder cannot be written.
    """

    file_name: str
    md5: str
    size: int | None
    urls: tuple[str, ...]
    instead: str = "name a folder that has it (--data-dir, CIFAR_HAPI_DATA), or use --data synthetic"
    elsewhere: str = "choose another --data-dir"


ARCHIVES = {
    "cifar10": RemoteFile(
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        170_498_071,
        (
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
        ),
    ),
    "cifar100": RemoteFile(
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        169_001_437,
        (
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "https://dataset.bj.bcebos.com/cifar/cifar-100-python.tar.gz",
        ),
    ),
}


def fetch(wanted: RemoteFile, folder: Path, progress: bool = False, timeout: float = 20.0) -> Path:
    """The path of the complete file in `folder`, downloaded where it is not there with the right MD5 sum.

    What has arrived is kept in `<file_name>.part`, from which this call, after a cut, and later calls go on.
    Processes that want the same file wait for the one that downloads it. `timeout` is in seconds without a
    byte; `progress` writes to standard error, with a bar where that is a terminal. Raises DataError where all
    mirrors fail, at once where there is no network, and where the folder cannot be written.
    """
    target = folder / wanted.file_name
    try:
        if _md5(target) != wanted.md5:
            folder.mkdir(parents=True, exist_ok=True)
            console = Console(stderr=True, quiet=not progress, soft_wrap=True, markup=False, highlight=False)
            with _locked(folder / f"{wanted.file_name}.lock", console):
                if _md5(target) != wanted.md5:  # else another process has just fetched it
                    _download(wanted, target, timeout, console)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be read or written: {error.strerror or error}; make room or {wanted.elsewhere}"
        ) from error
    return target


@contextmanager
def _locked(path: Path, console: Console) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"waiting for another process that downloads to {path.parent}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(wanted: RemoteFile, target: Path, timeout: float, console: Console) -> None:
    part = target.with_name(f"{target.name}.part")
    failures = []
    for url in wanted.urls:
        console.print(f"downloading {url} to {target.parent}")
        with _bar(console) as bar:
            try:
                _download_from(url, wanted, part, timeout, bar)
            except _MirrorError as error:
                failures.append(f"{url}: {error}")
                continue
        part.replace(target)
        return
    wrong = [f"the {target.name} that is there has another MD5 sum"] if target.exists() else []
    kept = [f"{_size(part):,} bytes are kept for the next try"] if _size(part) else []
    raise DataError(
        f"cannot download {wanted.file_name}: {'; '.join(failures + wrong + kept)}; "
        f"try again, put the file (MD5 {wanted.md5}) into {target.parent} by hand, or {wanted.instead}"
    )


def _bar(console: Console) -> Progress:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    hidden = console.quiet or not sys.stderr.isatty()
    return Progress(*columns, console=console, transient=True, disable=hidden)


class _MirrorError(Exception):
    """Why a mirror did not serve the file."""


class _CutError(_MirrorError):
    """The connection failed or ended early; what has arrived may be gone on from."""


def _download_from(url: str, wanted: RemoteFile, part: Path, timeout: float, bar: Progress) -> None:
    """Complete `part` from one mirror; with a wrong sum it is deleted and, if resumed, begun again."""
    task = bar.add_task("", total=wanted.size)
    for _ in range(_TRIES):
        before = _size(part)
        try:
            kept = _receive(url, wanted, part, timeout, lambda done: bar.update(task, completed=done))
        except _CutError:
            if _size(part) <= before:
                raise
            continue
        if _md5(part) == wanted.md5:
            return
        part.unlink()
        if not kept:
            raise _MirrorError("what it serves has another MD5 sum")
    raise _MirrorError(f"the connection was cut {_TRIES} times")


def _receive(url: str, wanted: RemoteFile, part: Path, timeout: float, report: Callable[[int], None]) -> int:
    """Bring `part` to its full length with one request; returns how many of its bytes are from before."""
    held = _size(part)
    if held == wanted.size:
        return held
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={held}-"} if held else {})
    connect = min(timeout, _CONNECT_SECONDS)
    _resolve(url, connect)
    try:
        with requests.get(url, headers=headers, timeout=(connect, timeout), stream=True) as response:
            if held and response.status_code == 416:  # nothing comes after what is held
                return held
            kept = _accepted_offset(response, held)
            _write(response, wanted, part, kept, report)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _CutError(_reason(error)) from error
    return kept


def _accepted_offset(response: requests.Response, held: int) -> int:
    """Where in the file the body begins: at the first byte when the server knows no ranges."""
    if response.status_code == 200:
        return 0
    if response.status_code != 206:
        raise _MirrorError(f"HTTP status {response.status_code} {response.reason}")
    content_range = response.headers.get("Content-Range", "")
    if not content_range.startswith(f"bytes {held}-"):
        raise _MirrorError(f"it was asked for the bytes from {held:,} and sends {content_range!r}")
    return held


def _write(
    response: requests.Response, wanted: RemoteFile, part: Path, kept: int, report: Callable[[int], None]
) -> None:
    """Append the body to the first `kept` bytes of `part`, never past the size that is wanted."""
    length = response.raw.length_remaining  # None where the server does not say
    total = wanted.size if length is None else kept + length
    if wanted.size is not None and total != wanted.size:
        raise _MirrorError(f"its file has {total:,} bytes instead of {wanted.size:,}")
    done = kept
    with part.open("ab") as file:
        file.truncate(kept)
        for chunk in response.raw.stream(_CHUNK, decode_content=False):  # .gz is how it is to be stored
            done += len(chunk)
            if done > (wanted.size or _LARGEST):
                file.truncate(0)
                raise _MirrorError(f"it sends more than {wanted.size or _LARGEST:,} bytes")
            file.write(chunk)
            report(done)
    if total is not None and done < total:
        raise _CutError(f"the connection ended after {done:,} of {total:,} bytes")


def _resolve(url: str, seconds: float) -> None:
    """Fail where the host's name is not resolved in time: the system has its own limit, of up to minutes."""
    if requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)):
        return  # the proxy resolves it
    errors: list[OSError] = []

    def look_up() -> None:
        try:
            socket.getaddrinfo(urlsplit(url).hostname, None)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=look_up, daemon=True)  # nothing can end a look-up, so it is left behind
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise _CutError(f"its name was not resolved within {seconds:g} s")
    if errors:
        raise _CutError(_reason(errors[0]))


def _reason(error: BaseException) -> str:
    """The innermost cause in one line; what requests wraps around it is long and says less."""
    while inner := error.__cause__ or next((x for x in error.args if isinstance(x, BaseException)), None):
        error = inner
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def has_md5(path: Path, md5: str) -> bool:
    """Whether there is a file at `path` with that MD5 sum; one that cannot be read is none."""
    try:
        return _md5(path) == md5
    except OSError:
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str | None:
    """Hexadecimal MD5 sum of the file, None where there is none."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()
