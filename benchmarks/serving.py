"""How many requests a second `cifar-hapi serve` answers, how fast, and in how much memory: by clients at the same time.

    python -m benchmarks.serving
    python -m benchmarks.serving --run runs/quick --clients 1 8 64 --seconds 10

Each client keeps one connection and sends one image after the other, a PNG of 32x32 pixels or a JPEG of 1200x900.
Client and server share the cores of this machine; the numbers of clients take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.worker import ROOT, clean_environment, warn_if_busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="by default one of --network that has been trained for two steps")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="the rest goes to cifar-hapi serve")
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    arguments = parser.parse_args()
    warn_if_busy()
    from cifar_hapi.runtime import prepare_process

    prepare_process()
    from cifar_hapi.runtime import versions

    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or barely_trained(arguments.network, Path(folder) / arguments.network)
        with started(run, arguments.options) as server:
            found = measure(server, arguments.clients, arguments.seconds, arguments.rounds)
    about = {"run": run.name, "options": arguments.options, "versions": versions()}
    report(f"{show(found)}\n\nrun {run.name}; {machine_line(versions())}", {**about, "serving": found}, arguments.json)


def barely_trained(network: str, path: Path) -> Path:
    """A run of `network`, on a few generated images."""
    from cifar_hapi import fit

    changes = {"data.limit": 200, "data.val_fraction": 0.0, "network.name": network, "schedule.milestones": []}
    return fit(
        "resnet20", epochs=1, batch_size=100, data="synthetic", run_dir=path, verbose=0, report=False, **changes
    ).path


@dataclass(frozen=True)
class Server:
    port: int
    process: int

    @property
    def memory(self) -> float:
        """Megabytes that it has; NaN where there is no /proc."""
        status = Path(f"/proc/{self.process}/status")
        return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) / 1000 if status.exists() else float("nan")


@contextmanager
def started(run: Path, options: list[str]) -> Iterator[Server]:
    """The command in a process of its own, on a port that is free."""
    command = [sys.executable, "-m", "cifar_hapi", "serve", str(run.resolve()), "--port", "0", "--quiet", *options]
    process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline()
        if not url:
            raise RuntimeError(f"{' '.join(command)}: ended with status {process.wait()}")
        yield Server(int(re.search(r":(\d+)/", url)[1]), process.pid)
    finally:
        process.terminate()
        process.wait()


def measure(server: Server, clients: list[int], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """For each kind of image and number of clients, the figures over all rounds."""
    turns = {(kind, count): Turns() for kind in images() for count in clients}
    for number in range(1, rounds + 1):
        for (kind, count), each in turns.items():
            each.add(asyncio.run(turn(server.port, request_of(images()[kind]), count, seconds)), server.memory)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return [{"image": kind, "clients": count, **each.figures()} for (kind, count), each in turns.items()]


class Turns:
    """What the turns of one kind of image and number of clients have given."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.seconds: list[float] = []
        self.memory: list[float] = []

    def add(self, answered: tuple[list[float], float], memory: float) -> None:
        seconds, took = answered
        self.rates.append(len(seconds) / took)
        self.seconds += seconds
        self.memory.append(memory)

    def figures(self) -> dict[str, float]:
        """Requests a second, the median over rounds; p50 and p99 of all requests, in seconds; megabytes, the most."""
        return {
            "requests_per_second": statistics.median(self.rates),
            "p50": percentile(self.seconds, 50),
            "p99": percentile(self.seconds, 99),
            "requests": len(self.seconds),
            "megabytes": max(self.memory),
        }


def percentile(seconds: list[float], percent: int) -> float:
    """The time within which so many percent of the requests were answered."""
    return sorted(seconds)[max(0, -(-percent * len(seconds) // 100) - 1)]


def images() -> dict[str, bytes]:
    """Files by what they are; pixels are random within smooth areas, as noise alone would be slow to decode."""
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    files = {"PNG 32x32": ((32, 32), "PNG"), "JPEG 1200x900": ((1200, 900), "JPEG")}
    return {name: _encoded(coarse.resize(size, Image.Resampling.BICUBIC), kind) for name, (size, kind) in files.items()}


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def request_of(image: bytes) -> bytes:
    head = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
    )
    return head.encode() + image


async def turn(port: int, request: bytes, clients: int, seconds: float) -> tuple[list[float], float]:
    """Seconds of each request of that many clients together, and of the whole turn; a first request is not counted."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(clients)]
    await asyncio.gather(*(ask(*each, request) for each in connections))
    begun = time.perf_counter()
    found = await asyncio.gather(*(ask_until(begun + seconds, *each, request) for each in connections))
    took = time.perf_counter() - begun
    for _, writer in connections:
        writer.close()
    return [each for client in found for each in client], took


async def ask_until(
    end: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> list[float]:
    durations = []
    while (begun := time.perf_counter()) < end:
        await ask(reader, writer, request)
        durations.append(time.perf_counter() - begun)
    return durations


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
    """Raises RuntimeError for anything but an answer."""
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server answers: {body.decode()}")


def show(found: list[dict[str, Any]]) -> str:
    rows = [
        [
            each["image"],
            f"{each['clients']}",
            f"{each['requests_per_second']:,.0f}",
            f"{1e3 * each['p50']:,.1f}",
            f"{1e3 * each['p99']:,.1f}",
            f"{each['megabytes']:,.0f}",
            f"{each['requests']:,}",
        ]
        for each in found
    ]
    return markdown_table(["image", "clients", "requests/s", "p50 ms", "p99 ms", "memory MB", "requests"], rows)


if __name__ == "__main__":
    main()
