"""What must be known to use an exported model, and where it comes from."""

from __future__ import annotations

from typing import Any

from cifar_hapi.data.identity import for_others
from cifar_hapi.exporting.network import INPUT, OUTPUT
from cifar_hapi.loading import Weights, checkpoint_step
from cifar_hapi.recorded_evaluation import recorded_evaluation
from cifar_hapi.run import Run


def facts_of(run: Run, weights: Weights, uint8_input: bool, fold_bn: bool) -> dict[str, Any]:
    """Plain values: input, output, normalisation, classes, origin, accuracy."""
    recipe, data = run.recipe, run.data
    classes = recipe.network.num_classes or len(data.class_names)
    return {
        "input": _input(recipe.data.image_size, uint8_input),
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["N", classes]},
        "normalisation": {
            "built_in": uint8_input,
            "formula": "(pixels / 255 - mean) / std",
            "mean": list(data.mean),
            "std": list(data.std),
        },
        "class_names": list(data.class_names),
        "network": recipe.network.name,
        "recipe": recipe.name,
        "data": for_others(data.name, data.note),
        "run": run.path.resolve().name,
        "weights": weights,
        "step": checkpoint_step(run, weights),
        "batch_norm_folded": fold_bn,
        "accuracy": recorded_accuracy(run, weights),
    }


def _input(side: int, uint8_input: bool) -> dict[str, Any]:
    if uint8_input:
        return {
            "name": INPUT,
            "dtype": "uint8",
            "shape": ["N", side, side, 3],
            "layout": "NHWC",
            "values": "RGB, 0 to 255",
        }
    return {
        "name": INPUT,
        "dtype": "float32",
        "shape": ["N", 3, side, side],
        "layout": "NCHW",
        "values": "RGB, normalised",
    }


def recorded_accuracy(run: Run, weights: Weights) -> dict[str, Any] | None:
    """What these weights reached on test images seen once, for others; None where they have not been evaluated."""
    found = recorded_evaluation(run)
    if found is None or found.step != checkpoint_step(run, weights):
        return None
    top1 = found.without_views.top1 if found.without_views else found.top1
    data = for_others(found.data, found.note)
    return {"top1": top1, "images": found.images, "data": data["name"], "note": data["note"]}
