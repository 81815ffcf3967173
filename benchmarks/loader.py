"""Images a second that the batch loader makes on one core, by augmentation and layout.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.loader

Medians of interleaved rounds over a set of CIFAR's size, batches made in line (no background thread).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from cifar_hapi.data.augment import Augmentation
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.loader import BatchLoader

AUGMENTATIONS = {
    "normalise": None,
    "+ random flip": Augmentation(flip="random"),
    "+ crop 4 reflect": Augmentation(flip="random", crop_padding=4),
    "+ cutout 8": Augmentation(flip="random", crop_padding=4, cutout=8),
    "alternating flip, crop 2": Augmentation(flip="alternating", crop_padding=2),
}
LAYOUTS = ("NCHW", "NHWC")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=50_000, help="size of the set")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40, help="batches a round")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    loaders = build_loaders(arguments.images, arguments.batch_size)
    speeds = measure(loaders, arguments.rounds, arguments.steps)
    if arguments.json:
        rows = [
            {"work": work, "layout": layout, "images_per_second": round(speed)}
            for (work, layout), speed in speeds.items()
        ]
        print(json.dumps({"numpy": np.__version__, "batch_size": arguments.batch_size, "rows": rows}, indent=2))
    else:
        print(f"{f'images/s, batch {arguments.batch_size}':<26}" + "".join(f"{name:>10}" for name in LAYOUTS))
        for work in AUGMENTATIONS:
            print(f"{work:<26}" + "".join(f"{speeds[work, layout]:>10,.0f}" for layout in LAYOUTS))


def build_loaders(images: int, batch_size: int) -> dict[tuple[str, str], BatchLoader]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    image_set = ImageSet(pixels, rng.integers(0, 10, images), tuple("abcdefghij"))
    return {
        (work, layout): BatchLoader(
            image_set,
            batch_size,
            augmentation=augmentation,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            shuffle=True,
            data_format=layout,
        )
        for work, augmentation in AUGMENTATIONS.items()
        for layout in LAYOUTS
    }


def measure(loaders: dict[tuple[str, str], BatchLoader], rounds: int, steps: int) -> dict[tuple[str, str], float]:
    """Median images a second of each loader; the order of an epoch is drawn before the clock starts."""
    speeds: dict[tuple[str, str], list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, loader in loaders.items():
            loader.batch(0, 0)
            start = time.perf_counter()
            images = sum(len(loader.batch(0, step % len(loader))[1]) for step in range(1, steps + 1))
            speeds[name].append(images / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in speeds.items()}


if __name__ == "__main__":
    main()
