"""From a recipe to a trained run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paddle.callbacks import Callback
from rich.console import Console

from callbacks import Progress, ResumePoint
from callbacks.paddle_model import scheduler
from callbacks.processes import is_writer
from cifar_hapi import terminal
from cifar_hapi.beginning import Begun, begun, planned
from cifar_hapi.building import declared_callbacks
from cifar_hapi.distributed import ranks
from cifar_hapi.distributed.departures import departures_told
from cifar_hapi.evaluation import record_evaluation
from cifar_hapi.hardware import peak_memory
from cifar_hapi.loading import load
from cifar_hapi.recipe import Recipe, overrides_by_key
from cifar_hapi.report.after_training import written_report
from cifar_hapi.run import Run


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
    talk = terminal.console(quiet=not (verbose and is_writer()))
    plan = planned(resolved, run_dir, device, resume, allow_changes)
    if plan.earlier and plan.complete:
        terminal.say_complete(talk, plan.earlier)
        plan.earlier.model = load(plan.earlier)
        return plan.earlier
    with begun(plan, talk) as training, _way_on_told(training.run, talk):
        _train(training, callbacks, talk)
        _evaluate(training, talk)
    run = training.run
    run.manifest = ranks.of_the_first(run.manifest)
    if is_writer():
        page = written_report(run, training.images.test) if report else ""
        terminal.summarise(talk, run, page)
    return run


def _train(training: Begun, callbacks: Sequence[Callback], talk: Console) -> None:
    """Train the model to the end, from where the checkpoint has resumed it."""
    run, recipe, checkpoint = training.run, training.recipe, training.checkpoint
    point = checkpoint.point or ResumePoint()
    if point.ended and point.planned == recipe.epochs:  # what was left is the evaluation
        run.model = load(run)
        return
    run.update(stopped=None)  # of a run that is extended: it has not stopped now
    if point.step:
        due = f"step {point.batch + 1}" if point.batch < len(training.loaders[0]) else "its end"
        talk.print(f"{'resumed':9}after step {point.step}: epoch {point.epoch + 1}, {due} is next")
        schedule = scheduler(run.model)
        schedule.step(schedule.last_epoch)  # its rate may follow another plan from here on
    shown = [] if talk.quiet else [Progress(console=talk)]
    everything = [*declared_callbacks(recipe, run, training.probe), checkpoint, *callbacks, *shown]
    run.model.fit(
        *training.loaders,
        epochs=recipe.epochs,
        eval_freq=recipe.eval_every_epochs,
        verbose=0,
        callbacks=everything,
        initial_epoch=point.epoch,
        initial_step=point.batch,
    )
    reasons = [reason for callback in everything if (reason := getattr(callback, "reason", None))]
    run.update(stopped=reasons[0] if reasons else None)


@contextmanager
def _way_on_told(run: Run, talk: Console) -> Iterator[None]:
    """Within it, who interrupts the training is told how it goes on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        talk.print(f"{'saved':9}`{terminal.resume_command(run.path)}` goes on from here")
        raise


def _evaluate(training: Begun, talk: Console) -> None:
    """What the last weights make of the whole test set, recorded."""
    run, images = training.run, training.images
    found = record_evaluation(
        run,
        run.model.network,
        images.test,
        weights="latest",
        choice=training.engine,
        data=images.name,
        note=images.note,
        verbose=int(not talk.quiet),
    )
    told = ("images", "loss", "top1", "top5", "step", "views", "without_views")
    result = {key: found[key] for key in told if key in found}
    run.update(result=result, peak_memory=peak_memory())
