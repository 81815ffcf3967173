"""Trainings that are killed with SIGKILL at random moments, resumed, killed again, and must end as if never killed.

    python -m tests.killed_training --kills 500          # the long version; the tests run a short one

One process imports everything and forks for each attempt, so that an attempt takes milliseconds, not seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import paddle

from callbacks import BatchNormStats, Checkpoint, EarlyStopping, ExponentialMovingAverage, History, StepHistory
from cifar_hapi.data.augment import Augmentation
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.metrics import TopK
from cifar_hapi.model import Model
from tests.toy import same_training

OPTIMIZERS = ("momentum", "adamw")
EPOCHS, BATCH, IMAGES = 6, 8, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8, help="for each optimiser")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    for optimizer in OPTIMIZERS:
        with tempfile.TemporaryDirectory() as folder:
            killed, trainings = survive(Path(folder), optimizer, arguments.kills, rng)
        print(json.dumps({"optimizer": optimizer, "kills": killed, "trainings": trainings}), flush=True)


def survive(folder: Path, optimizer: str, kills: int, rng: random.Random) -> tuple[int, int]:
    """Kill trainings until `kills` have hit, each resumed until it ends; how many hit, in how many trainings.

    Exits with an error if one does not end with the very bits of the training that was never killed.
    """
    begin = time.perf_counter()
    attempt(folder / "whole", optimizer)
    duration = time.perf_counter() - begin
    hits = trainings = 0
    while hits < kills:
        trainings += 1
        place = folder / f"killed-{trainings}"
        while attempt(place, optimizer, rng.uniform(0, duration) if hits < kills else None):
            hits += 1
        differing = same_training(folder / "whole", place)
        if differing:
            sys.exit(f"{optimizer}, training {trainings}: differs in {differing}")
    return hits, trainings


def attempt(folder: Path, optimizer: str, seconds: float | None = None) -> bool:
    """Train in a process of its own, killed after `seconds`; whether it was."""
    ended, held_by_child = os.pipe()
    child = os.fork()
    if child == 0:
        train(folder, optimizer)
        os._exit(0)
    os.close(held_by_child)
    if seconds is not None:
        select.select([ended], [], [], seconds)  # its end, or the moment to kill it
        os.kill(child, signal.SIGKILL)
    os.close(ended)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        sys.exit(f"the training in {folder} failed with status {status}")
    return status != 0


def train(folder: Path, kind: str) -> None:
    """Go on with the training in `folder`, or begin it."""
    random.seed(3), np.random.seed(3), paddle.seed(3)
    network = paddle.nn.Sequential(
        paddle.nn.Conv2D(3, 8, 3, padding=1, bias_attr=False),
        paddle.nn.BatchNorm2D(8),
        paddle.nn.ReLU(),
        paddle.nn.AdaptiveAvgPool2D(1),
        paddle.nn.Flatten(),
        paddle.nn.Dropout(0.2),
        paddle.nn.Linear(8, 4),
    )
    model = Model(network)
    rate = paddle.optimizer.lr.CosineAnnealingDecay(0.05, EPOCHS * (IMAGES // BATCH))
    made = {
        "momentum": lambda: paddle.optimizer.Momentum(rate, parameters=network.parameters(), weight_decay=1e-3),
        "adamw": lambda: paddle.optimizer.AdamW(rate, parameters=network.parameters()),
    }
    model.prepare(made[kind](), paddle.nn.CrossEntropyLoss(), [TopK((1, 2))])
    images = generated_images()
    augmentation = Augmentation(crop_padding=1, flip="random", cutout=2)
    loader = BatchLoader(images, BATCH, augmentation=augmentation, shuffle=True, seed=1)
    seen = next(iter(BatchLoader(images, 16)))
    callbacks = [
        ExponentialMovingAverage(0.9),
        History(folder / "history.jsonl"),
        StepHistory(folder / "steps.jsonl", every_steps=2),
        EarlyStopping("eval_loss", patience=3, restore_best=True),
        BatchNormStats(folder / "bn.jsonl", every_steps=3, channels="all", probe=seen, gradients=True),
    ]
    checkpoint = Checkpoint(folder, every_steps=3, keep=2, monitor="eval_acc", callbacks=callbacks)
    point = checkpoint.resume(model)
    if not point.ended:
        place = {"initial_epoch": point.epoch, "initial_step": point.batch}
        val = BatchLoader(images, BATCH)
        model.fit(loader, val, epochs=EPOCHS, verbose=0, callbacks=[*callbacks, checkpoint], **place)


def generated_images() -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8)
    return ImageSet(pixels, rng.integers(0, 4, IMAGES), ("a", "b", "c", "d"))


if __name__ == "__main__":
    main()
