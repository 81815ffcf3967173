"""How good a trained model is, over every image of the test set."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddle
from rich.console import Console
from rich.progress import Progress as Bar

from callbacks import LambdaCallback, NonFiniteLoss
from callbacks.processes import is_writer
from cifar_hapi.answers import AnswerMetric, Answers, write_answers
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.normalisation import DataFormat
from cifar_hapi.data.sources import open_data
from cifar_hapi.distributed.departures import departures_told
from cifar_hapi.distributed.ranks import of_the_first
from cifar_hapi.engine import EngineChoice
from cifar_hapi.errors import DataError
from cifar_hapi.loading import Weights, checkpoint_step, load_with_engine
from cifar_hapi.loss import CrossEntropy
from cifar_hapi.metrics import Calibration, ConfusionMatrix, TopK
from cifar_hapi.model import Model
from cifar_hapi.recipe import Views
from cifar_hapi.recorded_data import declared_again
from cifar_hapi.run import Run, now
from cifar_hapi.runtime import paddle_session
from cifar_hapi.views import AveragedViews


@departures_told()
def evaluate(
    run: Run | str | Path,
    *,
    weights: Weights = "latest",
    data: str | None = None,
    data_dir: str | None = None,
    batch_size: int | None = None,
    engine: str | None = None,
    views: Views | None = None,
    device: str = "auto",
    verbose: int = 0,
) -> dict[str, Any]:
    """Evaluate a run on all images of its test set, each exactly once; also written to its evaluation.json.

    weights: "latest", or "best" by the validation split. data: another source than the run's own; it must have the same
    classes. data_dir: where its data is looked for. batch_size: the recipe's `eval_batch_size` if absent; it does not
    matter to the result. engine: "auto", "native" or "onednn", the recipe's if absent. views: "plain", "flip" or
    "flip_shift", test-time augmentation as in `AveragedViews`; the recipe's if absent. verbose: 1 shows a bar on a
    terminal.

    Returns `loss` (mean cross-entropy, natural logarithm), `top1`, `top5` (in [0, 1]), `per_class` (name -> accuracy),
    `confusion` (lists [C][C], row = label), `calibration` (`ece`, `bins`), `images`, `views`, `data`, `note`,
    `weights`, `step`, `engine`, `precision`; with views, also `without_views`: `top1` and `loss` of the images alone.

    Raises RunError for a run or weights that can't be used, RecipeError for an engine or views that can't be had,
    DataError when the test set isn't the one the run recorded.
    """
    run = run if isinstance(run, Run) else Run(run)
    with paddle_session(device):
        model, choice = load_with_engine(run, weights, engine)
        test, name, note = _test_images(run, data, data_dir)
        return record_evaluation(
            run,
            model.network,
            test,
            weights=weights,
            choice=choice,
            data=name,
            note=note,
            batch_size=batch_size,
            views=views,
            verbose=verbose,
        )


def record_evaluation(
    run: Run,
    network: paddle.nn.Layer,
    test: ImageSet,
    *,
    weights: Weights,
    choice: EngineChoice,
    data: str,
    note: str,
    batch_size: int | None = None,
    views: Views | None = None,
    verbose: int = 0,
) -> dict[str, Any]:
    """Evaluate `network`, which has the run's `weights`, on `test`, and write that to the run's evaluation.json.

    choice: the engine that `network` runs on. Of several processes, which evaluate together, the first one writes.
    """
    recipe = run.recipe
    result, answers = evaluate_network(
        network,
        test,
        run.data.mean,
        run.data.std,
        image_size=recipe.data.image_size,
        batch_size=recipe.eval_batch_size if batch_size is None else batch_size,
        data_format=recipe.data_format(str(paddle.get_device())),
        views=recipe.evaluation.views if views is None else views,
        verbose=verbose,
    )
    if not math.isfinite(result["loss"]):
        raise NonFiniteLoss(f"run {run.path}: the loss on the test images is {result['loss']}; try a lower rate")
    seen = test.sha256()  # by all at once: a set on a disk takes longer than the others would wait
    if not is_writer():
        return of_the_first(result)
    evaluation = {
        **result,
        "data": data,
        "note": note,
        "weights": weights,
        "step": checkpoint_step(run, weights),
        "engine": choice.engine,
        "precision": choice.precision,
        "when": now(),
    }
    try:
        run.save_evaluation(evaluation)
        write_answers(run.answers_path, answers, images=seen, evaluated=evaluation["when"])
    except OSError as error:  # it is a result all the same
        warnings.warn(f"run {run.path}: the evaluation is not written: {error.strerror or error}", stacklevel=2)
    return of_the_first(evaluation)


def evaluate_network(
    network: paddle.nn.Layer,
    images: ImageSet,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int | None = None,
    batch_size: int = 250,
    data_format: DataFormat = "NCHW",
    views: Views = "plain",
    verbose: int = 0,
) -> tuple[dict[str, Any], Answers]:
    """The figures of `evaluate` for a network and images in memory, brought to `image_size` if given; its answers."""
    averaged = AveragedViews(network, views, data_format)
    loader = BatchLoader(images, batch_size, image_size=image_size, mean=mean, std=std, data_format=data_format)
    found, answers = _figures(averaged, loader, images.class_names, verbose)
    if views != "plain":
        plain, _ = _figures(network, loader, images.class_names, verbose)
        found["without_views"] = {key: plain[key] for key in ("top1", "loss")}
    return {"images": len(images), "views": views, **found}, answers


def _figures(
    network: paddle.nn.Layer, loader: BatchLoader, classes: Sequence[str], verbose: int
) -> tuple[dict[str, Any], Answers]:
    model, kept = Model(network), AnswerMetric()
    model.prepare(loss=CrossEntropy(), metrics=[TopK((1, 5)), ConfusionMatrix(len(classes)), Calibration(), kept])
    console = Console(stderr=True)
    hidden = not (verbose and console.is_terminal and is_writer())
    with Bar(*Bar.get_default_columns(), console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("evaluating", total=len(loader))
        shown = LambdaCallback(on_eval_batch_end=lambda step, logs: bar.advance(task))
        found = model.evaluate(loader, verbose=0, callbacks=[shown])
    confusion = found["confusion"]
    per_class = confusion.diagonal() / confusion.sum(axis=1).clip(min=1)
    figures = {
        "loss": found["loss"],
        "top1": found["acc"],
        "top5": found["top5"],
        "per_class": dict(zip(classes, per_class.tolist(), strict=True)),
        "confusion": confusion.tolist(),
        "calibration": found["calibration"],
    }
    return figures, kept.answers


def _test_images(run: Run, source: str | None, data_dir: str | None) -> tuple[ImageSet, str, str]:
    """The test images, the name of their set, and what must be said of it."""
    recorded = run.data
    data = open_data(declared_again(run, source or None, data_dir), run.recipe.seed)
    if source is None and data.test.sha256() != recorded.parts["test"].sha256:
        raise DataError(
            f"{data.source}: not the test set that run {run.path} recorded; "
            f"to evaluate on it all the same, pass --data {data.name}"
        )
    if data.test.class_names != recorded.class_names:
        raise DataError(f"{data.source}: its classes are not those of run {run.path}")
    return data.test, data.name, data.note
