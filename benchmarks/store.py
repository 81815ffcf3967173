"""The memory of a process that goes through an image folder once: in memory, as its store is made, and mapped.

    python -m benchmarks.store

A folder of generated images is read and its SHA-256 taken, as each training does, then all training images are gone
through in shuffled, augmented batches. Each case is a process of its own, which looks at itself in /proc every 10 ms.

RssAnon: memory that nothing else holds, so that it cannot be taken back. RssFile: pages of files that are mapped, the
store's and libraries'; the system drops them when others need room, as it does with all that was read of files. Given
is by how much each grew from the time when all is imported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tables import machine_line, markdown_table, report
from benchmarks.worker import warn_if_busy
from cifar_hapi.data import sources
from cifar_hapi.data.augment import Augmentation
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.recipe import DataRecipe
from cifar_hapi.runtime import versions

_CASES = ("in memory", "store is made", "store is mapped")
_CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="of decoded pixels")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; by default where temporary files go")
    parser.add_argument("--json", action="store_true", help="print JSON, and the table on standard error")
    parser.add_argument("--case", choices=_CASES, help=argparse.SUPPRESS)  # a child
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(gone_through(arguments)))
        return
    warn_if_busy()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        count = write_images(Path(folder) / "images", arguments.megabytes, arguments.size)
        found = {case: _in_child(case, Path(folder), arguments) for case in _CASES}
    pixels = count * arguments.size**2 * 3
    text = f"{show(found)}\n\n{count:,} images, {_mb(pixels)} of pixels; {machine_line(versions())}"
    report(text, {"versions": versions(), "images": count, "pixels": pixels, "cases": found}, arguments.json)


def write_images(folder: Path, megabytes: int, size: int) -> int:
    """JPEG files of smooth colours and a little noise, in ten classes; how many."""
    rng, count = np.random.default_rng(0), megabytes * 10**6 // (size**2 * 3)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        into = folder / f"class{number % _CLASSES}"
        into.mkdir(parents=True, exist_ok=True)
        coarse.resize((size, size), Image.Resampling.BILINEAR).save(into / f"{number:06}.jpg", quality=80)
    return count


def gone_through(arguments: argparse.Namespace) -> dict[str, Any]:
    """What one process took: seconds until the data was open and of the epoch, the growth of memory at its peak."""
    if arguments.case == _CASES[0]:
        sources.MOST_IN_MEMORY = sys.maxsize
    store = None if arguments.case == _CASES[0] else str(arguments.folder / "store")
    recipe = DataRecipe(source=str(arguments.folder / "images"), image_size=arguments.size, store=store)
    watch = MemoryWatch()
    begin = time.perf_counter()
    data = sources.open_data(recipe)
    sums = {name: part.sha256 for name, part in data.identity().parts.items()}
    ready = time.perf_counter()
    augmentation = Augmentation(crop_padding=4, flip="random")
    loader = BatchLoader(data.train, arguments.batch_size, augmentation=augmentation, mean=data.mean, shuffle=True)
    seen = sum(len(labels) for _, labels in loader)
    end = time.perf_counter()
    return {"ready": ready - begin, "epoch": end - ready, "images": seen, "sha256": sums, **watch.peaks()}


class MemoryWatch:
    """Looks at this process from a thread until `peaks` is asked for."""

    def __init__(self) -> None:
        self._first = self._most = resident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def peaks(self) -> dict[str, int]:
        """Bytes that each kind grew by at most, and both together."""
        self._ended.set()
        self._thread.join()
        return {kind: self._most[kind] - before for kind, before in self._first.items()}

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            self._most = {kind: max(self._most[kind], now) for kind, now in resident().items()}


def resident() -> dict[str, int]:
    """Bytes of this process that are in memory: RssAnon, RssFile, and VmRSS, which is both."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {kind: int(fields[kind].split()[0]) * 1024 for kind in ("RssAnon", "RssFile", "VmRSS")}


def show(found: dict[str, dict[str, Any]]) -> str:
    if len({json.dumps(case["sha256"]) for case in found.values()}) != 1:
        raise SystemExit("the cases have seen other images")
    kinds = ("RssAnon", "RssFile", "VmRSS")
    rows = [
        (case, *(_mb(each[kind]) for kind in kinds), *(f"{each[part]:.1f} s" for part in ("ready", "epoch")))
        for case, each in found.items()
    ]
    return markdown_table(["images", "RssAnon", "RssFile", "both", "until ready", "an epoch of batches"], rows)


def _in_child(case: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.store", "--case", case, "--folder", str(folder)]
    command += ["--size", str(arguments.size), "--batch-size", str(arguments.batch_size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(f"{case}: done", file=sys.stderr, flush=True)
    return dict(json.loads(done.stdout))


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


if __name__ == "__main__":
    main()
