"""From a recipe to a trained run."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.callbacks import Callback
from rich.console import Console

from callbacks import (
    BatchNormStats,
    Checkpoint,
    CheckpointError,
    EarlyStopping,
    ExponentialMovingAverage,
    History,
    Progress,
    ResumePoint,
    TerminateOnNaN,
)
from callbacks.paddle_model import scheduler
from callbacks.processes import is_writer
from cifar_hapi import terminal
from cifar_hapi.comparison import trained_parameters
from cifar_hapi.data.device_loader import DeviceLoader, fits_on
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.normalisation import normalise
from cifar_hapi.data.resize import resize
from cifar_hapi.data.sources import Data, open_data
from cifar_hapi.data.training_loader import training_loader
from cifar_hapi.distributed import ranks
from cifar_hapi.distributed.agreement import check_same, refused_together
from cifar_hapi.distributed.departures import departures_told
from cifar_hapi.distributed.sync_batch_norm import synchronise
from cifar_hapi.engine import EngineChoice
from cifar_hapi.errors import RecipeError, RunError
from cifar_hapi.evaluation import record_evaluation
from cifar_hapi.hardware import peak_memory
from cifar_hapi.loading import build_declared_network, check_declared_network, load, use_declared_engine
from cifar_hapi.loss import build_loss
from cifar_hapi.metrics import TopK
from cifar_hapi.mixed_precision import use_mixed_precision
from cifar_hapi.model import Model
from cifar_hapi.networks.airbench import Airbench
from cifar_hapi.optimizer import build_optimizer
from cifar_hapi.pretrained import Start, WeightsFile, find_weights, put_weights, read_weights
from cifar_hapi.recipe import Recipe, by_key, overrides_by_key
from cifar_hapi.report.after_training import written_report
from cifar_hapi.resuming import begun_run, check_same_data, is_complete
from cifar_hapi.run import Run, followed_run, free_run_path, resumed_run, started_run
from cifar_hapi.run_path import new_run_path
from cifar_hapi.runtime import Setting, apply_settings, check_device, machine, paddle_session, slowed_by, versions

_IMAGES_TO_WHITEN = 2000  # of 961 patches each


@departures_told()
def fit(
    recipe: str | Path | Recipe = "quick",
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    data: str | None = None,
    data_dir: str | Path | None = None,
    weights: str | Path | None = None,
    run_dir: str | Path | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    verbose: int = 1,
    resume: bool = False,
    allow_changes: bool = False,
    report: bool = True,
    **overrides: Any,
) -> Run:
    """Train what `recipe` says and evaluate the outcome on the whole test set.

    recipe: a built-in name, a TOML file or a Recipe. epochs, batch_size, seed, data (`data.source`), data_dir
    (`data.dir`), weights (`network.pretrained`: a file or run to begin with) and any dotted key in `overrides`
    (`**{"optimizer.lr": 0.2}`) change single values of it. run_dir: a new directory, by default
    `runs/<recipe>-<time>`. device: "auto", "cpu", "gpu" or "gpu:N". callbacks: further `paddle.callbacks.Callback`s.
    verbose: 0 prints nothing.

    resume: go on with the run in `run_dir`, if there is one: on the same machine it ends bit for bit as if it had never
    stopped. More `epochs` extend it. Other changes of the recipe or the data need allow_changes.

    report: whether a page about the run is written at its end, `report.html`, where the extra `report` is installed.

    Nothing is chosen by the test set: the final weights are the last ones (with early stopping's `restore_best`, the
    best by the validation split), the `best` those of the validation split.

    Under Paddle's launcher (`cifar-hapi train --nproc`) all processes call it alike, and train together as one would:
    `batch_size` is that of all, the first one writes and prints, and what is refused in one is refused in all. Where
    one has gone away, or has not answered for 30 seconds, the others raise LostProcess.

    Returns the Run, with `run.model` the trained model, ready to go on. Raises RecipeError, DataError, RunError, and
    `callbacks.NonFiniteLoss` when the loss is no number any more. After Ctrl-C or SIGTERM the run is saved and marked
    "interrupted".
    """
    named = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "data": data, "data_dir": data_dir}
    changes = overrides_by_key(weights=weights, **named) | overrides
    resolved = recipe.with_overrides(changes) if isinstance(recipe, Recipe) else Recipe.load(recipe, changes)
    writes, recipe = is_writer(), resolved
    verbose = verbose if writes else 0
    talk = terminal.console(quiet=not verbose)
    ranks.join()
    check_same("recipe", lambda: {key: value for key, value in by_key(recipe).items() if key != "data.dir"})
    check_same("installation", versions)
    with refused_together():
        check_declared_network(recipe.network)
        check_device(device, ranks.count())
        planned = _planned(recipe, run_dir, resume, allow_changes) if writes else None
    earlier, path, complete = ranks.of_the_first(planned)
    if earlier and complete:
        terminal.say_complete(talk, earlier)
        earlier.model = load(earlier)
        return earlier
    with refused_together():
        begin = _weights_to_begin_with(recipe, earlier, allow_changes, progress=bool(verbose)) if writes else None
    settings = apply_settings()
    with paddle_session(device, recipe.seed) as device_name, contextlib.ExitStack() as stack:
        images = _opened(recipe, progress=bool(verbose))
        check_same("data set", lambda: {part: about.sha256[:12] for part, about in images.identity().parts.items()})
        with refused_together():
            if earlier and not allow_changes:
                check_same_data(earlier, images)
            model, loaders = build_training(recipe, images)
            start = put_weights(model.network, begin) if begin else None
            del begin  # a hundred megabytes of ResNet-50
            engine = use_declared_engine(model.network, recipe, device_name)
            manifest = _manifest(recipe, images, device_name, engine, settings) | _as_recorded(start)
            manifest["parameters"] = trained_parameters(model.network)
            checkpoint = _declared_checkpoint(recipe, path)
            probe = images_to_probe(recipe, images, device_name)
            held = _held_run(path, manifest, model, checkpoint.resume if earlier else None)
            stack.enter_context(_refusals_as_run_errors(path))
            run = stack.enter_context(held)
        stack.enter_context(departures_told(f"`cifar-hapi resume {path}` goes on from the last checkpoint"))
        check_same("checkpoint", lambda: dataclasses.asdict(checkpoint.point or ResumePoint()))
        terminal.announce(talk, run, images, len(loaders[0]), start)
        if (engine.engine, device_name) == ("native", "cpu") and (late := slowed_by(settings)):
            talk.print(late)
        shown = [Progress(console=talk)] if verbose else []
        try:
            declared = _declared_callbacks(recipe, run, probe)
            _train(run, recipe, loaders, checkpoint, [*declared, checkpoint, *callbacks, *shown], talk)
        except (KeyboardInterrupt, SystemExit):
            talk.print(f"{'saved':9}`cifar-hapi resume {path}` goes on from here")
            raise
        found = record_evaluation(
            run,
            run.model.network,
            images.test,
            weights="latest",
            choice=engine,
            data=images.name,
            note=images.note,
            verbose=verbose,
        )
        result = {key: found[key] for key in ("images", "loss", "top1", "top5", "step")}
        run.update(result=result, peak_memory=peak_memory())
    run.manifest = ranks.of_the_first(run.manifest)
    if writes:
        page = written_report(run, images.test) if report else ""
        terminal.summarise(talk, run, page)
    return run


def _planned(
    recipe: Recipe, run_dir: str | Path | None, resume: bool, allow_changes: bool
) -> tuple[Run | None, Path, bool]:
    """The run to go on with, if any; where the training writes; and whether nothing is left to do."""
    earlier = begun_run(run_dir, recipe, allow_changes) if resume else None
    if earlier:
        return earlier, earlier.path, is_complete(earlier, recipe)
    return None, new_run_path(recipe.name) if run_dir is None else free_run_path(run_dir), False


def _opened(recipe: Recipe, progress: bool) -> Data:
    """The images that `recipe` names; where several processes are on a machine, the first finds them for the others."""
    images: Data | None = None
    for turn in (True, False) if ranks.count() > 1 else (True,):
        with refused_together():
            if (ranks.rank_on_machine() == 0) == turn:
                images = open_data(recipe.data, recipe.seed, progress=progress)
    assert images is not None, "one of the turns is this process's"
    return images


def _held_run(
    path: Path, manifest: dict[str, Any], model: Model, resume: Callable[[Any], ResumePoint] | None
) -> contextlib.AbstractContextManager[Run]:
    """The run at `path`, to be entered: written by the first process; with `resume`, one that goes on."""
    if not is_writer():
        return followed_run(path, manifest, model, resume)
    return resumed_run(path, manifest, model, resume) if resume else started_run(path, manifest, model)


def _weights_to_begin_with(
    recipe: Recipe, earlier: Run | None, allow_changes: bool, progress: bool
) -> WeightsFile | None:
    """What `network.pretrained` names, found and read; None where nothing is named, or the run has checkpoints.

    Raises RunError where the run at hand began with another file, and has no checkpoint yet.
    """
    if recipe.network.pretrained is None or (earlier and earlier.had_checkpoints):
        return None
    found = read_weights(find_weights(recipe.network, progress=progress))
    before = (earlier.recorded("pretrained", dict) if earlier else None) or {}
    if before.get("sha256") not in (None, found.sha256) and earlier and not allow_changes:
        raise RunError(
            f"run {earlier.path}: began with other weights than those in {found.path}; "
            "--allow-changes (allow_changes=True) begins with these"
        )
    return found


def _as_recorded(start: Start | None) -> dict[str, Any]:
    return {"pretrained": start.to_dict()} if start else {}


def build_training(recipe: Recipe, data: Data) -> tuple[Model, tuple[BatchLoader, BatchLoader | None]]:
    """The prepared model, and the loaders of the training and the validation images (None if none are held out).

    On Paddle's current device, as `recipe` wants it there: data format, mixed precision, images on the device. Weights
    are fresh, also where the recipe names some to begin with.
    """
    device = str(paddle.get_device())
    data_format = recipe.data_format(device)
    kind, size = DeviceLoader if _on_device(recipe, data, device) else BatchLoader, recipe.data.image_size
    loader = partial(kind, image_size=size, data_format=data_format)
    training = training_loader(partial(loader, rank=ranks.rank(), ranks=ranks.count()), recipe, data)
    classes, asked = len(data.train.class_names), recipe.network.num_classes
    if asked not in (None, classes):
        raise RecipeError(f"network.num_classes = {asked}: {data.name} has {classes} classes; leave the key out")
    network = build_declared_network(recipe.network, classes, data_format)
    if isinstance(network, Airbench):
        first = resize(data.train.images[:_IMAGES_TO_WHITEN], size)
        network.whiten(normalise(first, data.mean, data.std, data_format))
    if recipe.network.sync_batch_norm:
        synchronise(network)
    precision = use_mixed_precision(network, recipe.precision, device)
    model = Model(network)
    optimizer = build_optimizer(recipe.optimizer, recipe.schedule, network, len(training), recipe.epochs)
    scaling = "O1" if precision == "float16" else None
    model.prepare(optimizer, build_loss(recipe.loss), [TopK()], amp_configs=scaling)
    if data.val is None:
        return model, (training, None)
    return model, (training, loader(data.val, recipe.eval_batch_size, mean=data.mean, std=data.std))


def _on_device(recipe: Recipe, data: Data, device: str) -> bool:
    asked = recipe.data.on_device
    return fits_on(device, data.train, data.val) if asked == "auto" else asked


def _train(
    run: Run,
    recipe: Recipe,
    loaders: tuple[BatchLoader, BatchLoader | None],
    checkpoint: Checkpoint,
    callbacks: Sequence[Callback],
    talk: Console,
) -> None:
    """Train `run.model` to the end, from where `checkpoint` has resumed it."""
    point = checkpoint.point or ResumePoint()
    if point.ended and point.planned == recipe.epochs:  # what was left is the evaluation
        run.model = load(run)
        return
    if point.step:
        talk.print(f"{'resumed':9}after step {point.step}: epoch {point.epoch + 1}, step {point.batch + 1} is next")
        schedule = scheduler(run.model)
        schedule.step(schedule.last_epoch)  # its rate may follow another plan from here on
    run.model.fit(
        *loaders,
        epochs=recipe.epochs,
        eval_freq=recipe.eval_every_epochs,
        verbose=0,
        callbacks=callbacks,
        initial_epoch=point.epoch,
        initial_step=point.batch,
    )
    reasons = [reason for callback in callbacks if (reason := getattr(callback, "reason", None))]
    run.update(stopped=reasons[0] if reasons else None)


@contextlib.contextmanager
def _refusals_as_run_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise RunError(f"run {path}: {error}") from None


def _declared_checkpoint(recipe: Recipe, path: Path) -> Checkpoint:
    saving = recipe.checkpoint
    return Checkpoint(
        path / "checkpoints",
        every_epochs=saving.every_epochs,
        every_steps=saving.every_steps,
        every_seconds=saving.every_seconds,
        keep=saving.keep,
        keep_best=saving.keep_best,
        monitor=saving.monitor,
        mode=saving.mode,
    )


def images_to_probe(recipe: Recipe, data: Data, device: str) -> np.ndarray | None:
    """What batch-norm statistics look at: the first validation images, without such the first training images.

    As the network takes them. Raises RecipeError where there are not as many as `bn_stats.probe`.
    """
    count = recipe.bn_stats.probe if recipe.bn_stats else 0
    part, name = (data.train, "training") if data.val is None else (data.val, "validation")
    if count > len(part):
        raise RecipeError(f"bn_stats.probe = {count}: there are {len(part)} {name} images; ask for no more")
    first = resize(part.images[:count], recipe.data.image_size)
    return normalise(first, data.mean, data.std, recipe.data_format(device)) if count else None


def _declared_callbacks(recipe: Recipe, run: Run, probe: np.ndarray | None) -> list[Callback]:
    callbacks = [TerminateOnNaN(), History(run.path / "history.jsonl")]
    if recipe.averaging:
        callbacks.insert(0, ExponentialMovingAverage(recipe.averaging.decay, recipe.averaging.warm_up))
    if recipe.early_stopping:
        callbacks.append(EarlyStopping(**dataclasses.asdict(recipe.early_stopping)))
    if recipe.bn_stats:
        callbacks.append(BatchNormStats(run.bn_path, **{**dataclasses.asdict(recipe.bn_stats), "probe": probe}))
    return callbacks


def _manifest(recipe: Recipe, data: Data, device: str, engine: EngineChoice, settings: list[Setting]) -> dict[str, Any]:
    return {
        "format": 1,
        "recipe": recipe.to_dict(),
        "data": data.identity().to_dict(),
        "seed": recipe.seed,
        "device": device,
        "engine": engine.engine,
        "engine_reason": engine.why,
        "precision": engine.precision,
        "versions": versions(),
        "machine": machine(),
        "processes": ranks.count(),
        "settings": {each.name: {"value": each.value, "state": each.state, "why": each.why} for each in settings},
        "command": sys.argv,
    }
