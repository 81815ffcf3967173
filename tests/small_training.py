"""The smallest training that goes all the way."""

from __future__ import annotations

from pathlib import Path

from cifar_hapi import fit
from cifar_hapi.data.archive_format import dumps
from cifar_hapi.data.synthetic import write_synthetic

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

TINY = {
    "network.name": "plain20",
    "network.width": 2,
    "augment.crop_padding": 2,
    "checkpoint.keep": 2,
    "data.val_fraction": 0.1,
    "evaluation.views": "plain",
    "optimizer.name": "momentum",
    "optimizer.lr": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.groups": [],
}


def write_small_cifar(folder: Path, train: int = 600, test: int = 120, seed: int = 0) -> None:
    """Generated images under CIFAR-10's class names, which are what tells the two apart."""
    meta = write_synthetic(folder, train, test, seed) / "batches.meta"
    meta.write_bytes(dumps({"num_cases_per_batch": train // 5, "label_names": CIFAR10_CLASSES, "num_vis": 3072}))


def small_fit(data_dir, run_dir, recipe="quick", **options):
    settings = {"data": "cifar10", "epochs": 2, "batch_size": 100, "verbose": 0, "report": False, **TINY, **options}
    return fit(recipe, data_dir=data_dir, run_dir=run_dir, **settings)
