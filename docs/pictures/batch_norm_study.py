"""Train with and without batch norm, at many rates and depths, and with one that is broken; draw what came out.

python docs/pictures/batch_norm_study.py runs/batch-norm docs/pictures/batch_norm.json docs/pictures/batch_norm.svg

Networks of a width of 8 on 10,000 images of CIFAR-10, or of the generated set where there is none, in 4 epochs. It can
be stopped at any time: what is trained already, below the first folder, is taken from there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paddle.callbacks import Callback
from style import plt  # beside this file

from callbacks import NonFiniteLoss
from callbacks.paddle_model import norm_layers
from cifar_hapi import Run, fit, load, recalibrate
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.sources import open_data

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
DEPTHS = (20, 32, 44)
DEPTH_RATE = 0.03
NORMS = ("batch", "none")
EPOCHS = 4
MOMENTUM = 0.999  # of the broken one: after 280 steps a running mean has come a quarter of its way
NAMES = {"batch": "with batch norm", "none": "without", "broken": f"batch norm with momentum {MOMENTUM}"}
COLOURS = {"batch": "#1f6feb", "none": "#e5783a", "broken": "#8250df"}


@dataclass(frozen=True)
class Training:
    """One of the study, of a plain network. norm: "batch", "none" or "broken"."""

    depth: int
    norm: str
    rate: float

    @property
    def name(self) -> str:
        return f"plain{self.depth}-{self.norm}-{self.rate:g}"


def trainings() -> Iterator[Training]:
    for norm in NORMS:
        yield from (Training(20, norm, rate) for rate in RATES)
    for norm in NORMS:
        yield from (Training(depth, norm, DEPTH_RATE) for depth in DEPTHS)
    yield Training(20, "broken", DEPTH_RATE)


def main() -> None:
    runs, result, picture = map(Path, sys.argv[1:])
    found = []
    for each in dict.fromkeys(trainings()):
        found.append({**asdict(each), **train(each, runs / each.name)})
        print(json.dumps(found[-1]), flush=True)
    result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, picture)


def train(training: Training, run_dir: Path) -> dict[str, Any]:
    """The accuracies on held-out images after each epoch, that of all test images at the end, and on which data.

    A training whose loss is no number any more has no accuracies.
    """
    try:
        run = fit(
            "resnet20",
            run_dir=run_dir,
            resume=True,
            verbose=0,
            epochs=EPOCHS,
            callbacks=[SlowStatistics()] if training.norm == "broken" else [],
            **{
                "network.name": f"plain{training.depth}",
                "network.norm": "none" if training.norm == "none" else "batch",
                "network.width": 8,
                "data.limit": 10_000,
                "optimizer.lr": training.rate,
                "schedule.name": "cosine",
                "schedule.milestones": [],
            },
        )
    except NonFiniteLoss:
        return {"diverged": True, "held_out": [], "test": None}
    evaluation = run.evaluation or {}
    held_out = [record["eval_acc"] for record in run.history]
    found = {"diverged": False, "held_out": held_out, "test": evaluation["top1"], "data": run.data.name}
    return found | ({"mended": mended(run)} if training.norm == "broken" else {})


def mended(run: Run) -> dict[str, float]:
    """The accuracies of the last weights with recalibrated running statistics."""
    recipe = run.recipe.with_overrides({"data.source": run.data.name})
    data = open_data(recipe.data, recipe.seed)
    loaders = {
        part: BatchLoader(images, 200, mean=data.mean, std=data.std)
        for part, images in (("train", data.train), ("held_out", data.val), ("test", data.test))
        if images is not None
    }
    model = load(run)
    recalibrate(model, loaders["train"], batches=20)
    return {part: model.evaluate(loaders[part], verbose=0)["acc"] for part in ("held_out", "test")}


class SlowStatistics(Callback):
    """Makes running means and variances follow batches far too slowly."""

    def on_train_begin(self, logs: Any = None) -> None:
        for norm in norm_layers(self.model.network).values():
            norm._momentum = MOMENTUM


def draw(found: list[dict[str, Any]], picture: Path) -> None:
    figure, (rates, depths, course) = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True)
    for norm in NORMS:
        at = [each for each in found if (each["depth"], each["norm"]) == (20, norm)]
        rates.plot([each["rate"] for each in at], list(map(last, at)), "o-", color=COLOURS[norm], label=NAMES[norm])
        at = [each for each in found if (each["norm"], each["rate"]) == (norm, DEPTH_RATE)]
        at.sort(key=lambda each: each["depth"])
        depths.plot([each["depth"] for each in at], list(map(last, at)), "o-", color=COLOURS[norm], label=NAMES[norm])
    for norm, name in NAMES.items():
        of = (20, norm, DEPTH_RATE)
        (one,) = (each for each in found if (each["depth"], each["norm"], each["rate"]) == of)
        accuracies = [100 * accuracy for accuracy in one["held_out"]]
        course.plot(range(1, len(accuracies) + 1), accuracies, "o-", color=COLOURS[norm], label=name)
        if "mended" in one:
            accuracy, label = 100 * one["mended"]["held_out"], "the same network, recalibrated"
            course.plot(EPOCHS, accuracy, "D", color=COLOURS[norm], fillstyle="none", label=label)
    rates.set(xscale="log", xlabel="learning rate, 20 layers", ylabel="top-1 accuracy, %")
    depths.set(xlabel=f"layers, at a rate of {DEPTH_RATE:g}", xticks=DEPTHS)
    course.set(xlabel=f"epochs, 20 layers at {DEPTH_RATE:g}", xticks=range(1, EPOCHS + 1))
    for axis in (rates, depths, course):
        axis.legend(frameon=False, fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})


def last(result: dict[str, Any]) -> float:
    """The accuracy on held-out images after the last epoch, in percent; of a diverged training, that of guessing."""
    return 10.0 if result["diverged"] else 100 * result["held_out"][-1]


if __name__ == "__main__":
    main()
