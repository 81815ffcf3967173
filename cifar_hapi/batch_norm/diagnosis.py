"""What is wrong with the batch norm of a network, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle

from callbacks.paddle_model import weights as tensors_by_name
from cifar_hapi.batch_norm.arguments import batch_norms, check_counts
from cifar_hapi.batch_norm.findings import SEVERITIES, Diagnosis
from cifar_hapi.batch_norm.observation import Observation, Training
from cifar_hapi.batch_norm.observer import observe, read_batches
from cifar_hapi.batch_norm.processes import tensors_of
from cifar_hapi.batch_norm.rules import RULES, Rule
from cifar_hapi.batch_norm.run_images import held_out_images, run_session
from cifar_hapi.errors import RecipeError
from cifar_hapi.loading import Weights, checkpoint_step, load
from cifar_hapi.optimizer import build_optimizer
from cifar_hapi.run import Run

_RULES = "cifar_hapi.batch_norm.rules.RULES"


def diagnose(
    model_or_run: paddle.Model | Run | str | Path,
    data: Any = None,
    *,
    test_data: Any = None,
    training: Training | None = None,
    processes: Sequence[Mapping[str, Any] | str | Path] = (),
    images: int = 1000,
    batch_size: int = 100,
    weights: Weights = "latest",
    data_dir: str | Path | None = None,
    rules: Sequence[Rule] = RULES,
) -> Diagnosis:
    """Look for what is wrong with the batch-norm layers of a network.

        print(diagnose("runs/first"))
        diagnose(model, (images, labels)).worst  # None, "note", "warning" or "error"

    model_or_run: a `paddle.Model`, a Run, or the path of one. Of a run, `run.model` is taken where `fit` has left it,
    else its `weights`, "latest" or "best"; its recipe is looked at, too.

    data: normalised images such as the network was trained on, float, and labels, integers: an array, a pair of
    arrays, a `paddle.io.Dataset`, or batches, such as a loader; without labels, accuracies are not looked at. For a run
    it may be absent: then the validation images, or if none are held out training images, looked for in `data_dir` if
    given. At most `images` are taken, in batches of about `batch_size`, which is what statistics of the batch are those
    of.
    test_data: the same of images that may have shifted, such as corrupted ones.

    training: how the network was, or is to be, trained; of a run it is known. processes: state dicts, or safetensors
    files of them, of the other processes that trained the same network. rules: others than all.

    The network is left as it was, bit for bit, with its random states; a loader is read from its next batch on. On the
    oneDNN engine, it is looked at natively, in float32.

    Raises RecipeError for a network without batch norm and numbers that cannot be, TypeError for arguments of another
    kind, DataError for images and labels that cannot be, such as NaN, that the network does not take or that are not to
    be had any more, RunError for a run, weights or file that can't be used.
    """
    rules = _checked(rules)
    seen = look(
        model_or_run,
        data,
        test_data=test_data,
        training=training,
        processes=processes,
        images=images,
        batch_size=batch_size,
        weights=weights,
        data_dir=data_dir,
    )
    return examine(seen, rules)


def look(
    model_or_run: paddle.Model | Run | str | Path,
    data: Any = None,
    *,
    test_data: Any = None,
    training: Training | None = None,
    processes: Sequence[Mapping[str, Any] | str | Path] = (),
    images: int = 1000,
    batch_size: int = 100,
    weights: Weights = "latest",
    data_dir: str | Path | None = None,
) -> Observation:
    """What the rules of `diagnose` look at, whose arguments these are."""
    _check(training, images, batch_size)
    most = (images, batch_size)
    if isinstance(model_or_run, paddle.Model):
        if data is None:
            raise RecipeError("diagnose: a model needs data: normalised images such as it was trained on, with labels")
        return _observed(model_or_run, data, test_data, training, processes, *most)
    if not isinstance(model_or_run, Run | str | Path):
        kind = type(model_or_run).__name__
        raise TypeError(f"diagnose: a {kind} is no paddle.Model, Run or path; of a network, make paddle.Model(network)")
    run = model_or_run if isinstance(model_or_run, Run) else Run(model_or_run)
    with run_session(run) as device:
        model = _model_of(run, weights)
        if data is None:
            data = held_out_images(run, data_dir, device, batch_size, "give data to diagnose")
        training = _training_of(run, weights) if training is None else training
        return _observed(model, data, test_data, training, processes, *most)


def examine(seen: Observation, rules: Sequence[Rule] = RULES) -> Diagnosis:
    """What `rules` find in an observation, the gravest first, else in the order of the rules."""
    found = [finding for rule in rules for finding in rule(seen)]
    found.sort(key=lambda finding: -SEVERITIES.index(finding.severity))
    unable = {rule.name: lacking for rule in rules if (lacking := rule.lacks(seen))}
    names = tuple(rule.name for rule in rules)
    return Diagnosis(tuple(found), len(seen.layers), seen.images, len(rules), unable, names)


def _checked(rules: Any) -> tuple[Rule, ...]:
    if isinstance(rules, str) or not isinstance(rules, Iterable):
        raise TypeError(f"diagnose: rules is a {type(rules).__name__}: expected a sequence of rules, such as {_RULES}")
    rules = tuple(rules)
    for place, each in enumerate(rules):
        if not isinstance(each, Rule):
            kind = type(each).__name__
            raise TypeError(f"diagnose: rules[{place}] is a {kind}: expected a rule, such as those of {_RULES}")
    return rules


def _check(training: Training | None, images: int, batch_size: int) -> None:
    check_counts("diagnose", images=images, batch_size=batch_size)
    if training is not None and not isinstance(training, Training):
        kind = type(training).__name__
        raise TypeError(f"diagnose: training is a {kind}: expected a Training, such as Training(batch_size=8)")


def _observed(
    model: paddle.Model,
    data: Any,
    test_data: Any,
    training: Training | None,
    processes: Sequence[Mapping[str, Any] | str | Path],
    images: int,
    batch_size: int,
) -> Observation:
    batch_norms(model, "diagnose")
    own = tensors_by_name(model)
    others = [tensors_of(process, own) for process in processes]
    batches = read_batches(model, data, images, batch_size)
    shifted = None if test_data is None else read_batches(model, test_data, images, batch_size, "test_data")
    return observe(model, batches, shifted, training, others)


def _model_of(run: Run, weights: Weights) -> paddle.Model:
    """The run's model, with the optimiser that its recipe declares."""
    if run.model is not None and weights == "latest":
        return run.model
    model, recipe = load(run, weights, engine="native"), run.recipe
    model.prepare(build_optimizer(recipe.optimizer, recipe.schedule, model.network, 1, recipe.epochs), model.loss)
    return model


def _training_of(run: Run, weights: Weights) -> Training:
    size, images = run.recipe.batch_size, run.data.parts["train"].images
    return Training(size, images, drop_last=images >= size, steps=checkpoint_step(run, weights))
