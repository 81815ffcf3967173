"""The test images of a run's evaluation, and what the network said of each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from cifar_hapi.answers import Answers, read_answers, write_answers
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.sources import open_data
from cifar_hapi.errors import DataError, RecipeError, RunError
from cifar_hapi.evaluation import evaluate_network
from cifar_hapi.loading import Weights, checkpoint_step, load_with_engine
from cifar_hapi.recorded_data import declared_again
from cifar_hapi.recorded_evaluation import RecordedEvaluation
from cifar_hapi.run import Run
from cifar_hapi.runtime import paddle_session


@dataclass(frozen=True, eq=False)
class AnsweredImages:
    images: ImageSet
    answers: Answers


def answered_images(
    run: Run, evaluation: RecordedEvaluation, data_dir: str | Path | None = None, at_hand: ImageSet | None = None
) -> AnsweredImages:
    """What the evaluation was about. at_hand: images that may be those; else they are looked for, in `data_dir` first.

    Where the run has kept no answers, the network is run once, and they are kept. Raises DataError where the images are
    not to be had any more, or are others; RunError where the weights are not.
    """
    kept = read_answers(run.answers_path, evaluation.when, len(evaluation.per_class))
    own = run.data.parts["test"].sha256 if evaluation.data == run.data.name else None
    expected = kept[1] if kept else own
    if expected is None:
        raise DataError(f"the images of {evaluation.data} that run {run.path} was evaluated on were not recorded")
    images = at_hand if at_hand is not None and at_hand.sha256() == expected else _found(run, evaluation, data_dir)
    if images is not at_hand and images.sha256() != expected:
        raise DataError(f"the test images of {evaluation.data} are not those that run {run.path} recorded")
    answers = kept[0] if kept else _asked(run, evaluation, images)
    if len(answers) != len(images):
        raise RunError(f"{run.answers_path}: holds {len(answers)} answers for {len(images)} images; evaluate again")
    return AnsweredImages(images, answers)


def _found(run: Run, evaluation: RecordedEvaluation, data_dir: str | Path | None) -> ImageSet:
    try:
        return open_data(declared_again(run, evaluation.data, data_dir), run.recipe.seed).test
    except RecipeError as error:
        raise DataError(f"the test images cannot be read again: {error}") from None


def _asked(run: Run, evaluation: RecordedEvaluation, images: ImageSet) -> Answers:
    """Run the network on the images as the evaluation did, and keep what it says."""
    weights: Weights = "best" if evaluation.weights == "best" else "latest"
    if checkpoint_step(run, weights) != evaluation.step:
        raise RunError(f"run {run.path} has gone on since it was evaluated; evaluate it again")
    recipe = run.recipe
    with paddle_session() as device:
        model, _ = load_with_engine(run, weights, None)
        _, answers = evaluate_network(
            model.network,
            images,
            run.data.mean,
            run.data.std,
            image_size=recipe.data.image_size,
            batch_size=recipe.eval_batch_size,
            data_format=recipe.data_format(device),
            views=recipe.with_overrides({"evaluation.views": evaluation.views}).evaluation.views,
        )
    try:
        write_answers(run.answers_path, answers, images=images.sha256(), evaluated=evaluation.when)
    except OSError as error:  # they are known all the same
        warnings.warn(f"{run.answers_path}: not written: {error.strerror or error}", stacklevel=2)
    return answers
