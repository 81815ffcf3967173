"""What a server says of the run that it serves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from cifar_hapi.data.identity import for_others
from cifar_hapi.exporting.metadata import recorded_accuracy
from cifar_hapi.loading import Weights, checkpoint_step
from cifar_hapi.run import Run
from cifar_hapi.serving.classifier import image_side
from cifar_hapi.serving.options import ServingOptions
from cifar_hapi.serving.upload import FORMATS

_GENERATED = "This network was trained on generated images: what it says of photos means nothing."


class Accuracy(BaseModel):
    """What the weights reached on test images, each seen once."""

    top1: float = Field(description="Share of the images that were classified rightly")
    images: int
    data: str


class RunFacts(BaseModel):
    """The run that answers."""

    name: str
    network: str
    recipe: str
    weights: str = Field(description="latest or best")
    step: int = Field(description="After how many updates these weights were saved")
    data: str = Field(description="What it was trained on")
    note: str = Field(description="What must be said with every result; empty if nothing")
    accuracy: Accuracy | None = Field(description="As recorded; null where these weights were not evaluated")


class Served(RunFacts):
    """The run, and what may be sent to it."""

    class_names: list[str]
    image_size: int = Field(description="Side in pixels to which images are brought")
    formats: list[str]
    most_images: int
    most_bytes: int
    most_pixels: int


def facts_of(run: Run, weights: Weights, options: ServingOptions) -> Served:
    """Raises RunError where the run has no such weights, or its evaluation is damaged."""
    recipe, data, accuracy = run.recipe, run.data, recorded_accuracy(run, weights)
    about: dict[str, Any] = {
        "name": run.path.resolve().name,
        "network": recipe.network.name,
        "recipe": recipe.name,
        "weights": weights,
        "step": checkpoint_step(run, weights),
        "data": for_others(data.name, data.note)["name"],
        "note": _GENERATED if data.name == "synthetic" else "",
        "accuracy": accuracy and Accuracy(**accuracy),
    }
    return Served(
        **about,
        class_names=list(data.class_names),
        image_size=image_side(run),
        formats=list(FORMATS),
        most_images=options.images,
        most_bytes=options.body,
        most_pixels=options.pixels,
    )
