"""Training and evaluation by one recipe, measured on request; a child of benchmarks.recipe_steps.

All is the recipe's: network, augmentation, loss, optimiser, batch sizes. `--stock`: with Paddle's own kernels in a
process as Python starts it; else as the command line trains.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paddle_worker import evaluation_step, training_step
from benchmarks.pixels import labelled_images
from benchmarks.worker import Step, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run.json, whose recipe it is")
    parser.add_argument("--stock", action="store_true")
    arguments = parser.parse_args()
    serve(lambda: prepare(arguments.run, arguments.stock))


def prepare(run: Path, stock: bool) -> tuple[dict[str, Any], dict[str, Step]]:
    if not stock:
        from cifar_hapi.runtime import prepare_process

        prepare_process()
    import paddle

    from cifar_hapi.building import build_training
    from cifar_hapi.loading import use_declared_engine
    from cifar_hapi.recipe import Recipe
    from cifar_hapi.runtime import versions

    paddle.set_device("cpu")
    declared = Recipe.from_dict(json.loads(run.read_text(encoding="utf-8"))["recipe"])
    recipe = declared.with_overrides({"engine": "native" if stock else "auto", "data.val_fraction": 0.0})
    data = pixels(recipe.batch_size * max(2, -(-recipe.eval_batch_size // recipe.batch_size)))
    model, (training, _) = build_training(recipe, data)
    choice = use_declared_engine(model.network, recipe, "cpu")
    batches = [training.batch(0, step) for step in range(len(training))]
    images, labels = (np.concatenate(parts)[: recipe.eval_batch_size] for parts in zip(*batches, strict=True))
    about = {"versions": versions(), "engine": choice.engine, "precision": choice.precision}
    about |= {"batch_size": recipe.batch_size, "eval_batch_size": len(images)}
    return about, {
        "training": training_step(model, batches),
        "evaluation": evaluation_step(model, [(images, labels)]),
    }


def pixels(count: int) -> Any:
    """So many images as a data set."""
    from cifar_hapi.data.normalisation import channel_statistics
    from cifar_hapi.data.sources import Data

    name, images = labelled_images(count)
    return Data(name, "", "", images, None, images, *channel_statistics(images.images))


if __name__ == "__main__":
    main()
