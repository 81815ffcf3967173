"""The smallest training that goes all the way."""

from __future__ import annotations

from cifar_hapi import fit

TINY = {"network.name": "plain20", "network.width": 2, "augment.crop_padding": 2, "checkpoint.keep": 2}


def small_fit(data_dir, run_dir, recipe="quick", **options):
    settings = {"data": "cifar10", "epochs": 2, "batch_size": 100, "verbose": 0, **TINY, **options}
    return fit(recipe, data_dir=data_dir, run_dir=run_dir, **settings)
