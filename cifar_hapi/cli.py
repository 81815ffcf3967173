"""The command line: parse, call the API, print."""

from __future__ import annotations

import csv
import json
import os
import sys
import traceback
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_args

import click

from cifar_hapi._version import __version__
from cifar_hapi.distributed.launching import ended, is_first, launch, take_terminal
from cifar_hapi.errors import CifarHapiError, RecipeError
from cifar_hapi.recipe import Recipe, Views, overrides_by_key, parse_override, recipe_names, recipe_text
from cifar_hapi.run_path import check_run, free_run_path, is_run, new_run_path
from cifar_hapi.runtime import cache_folder, prepare_process
from cifar_hapi.serving.address import Address
from cifar_hapi.serving.libraries import check_libraries
from cifar_hapi.serving.options import ServingOptions, on_command_line


def main() -> NoReturn:
    """Run the command and exit: 0 success, 2 usage, recipe, 3 data, 4 run, 5 lost process, 130 after Ctrl-C, else 1."""
    warnings.showwarning = _warn
    take_terminal()
    sys.exit(ended(run_command(sys.argv[1:])))


def run_command(arguments: list[str]) -> int:
    """Run the command line `arguments`; the exit code. Errors are one line unless `--debug` is among the arguments."""
    try:
        code = cli.main(arguments, prog_name="cifar-hapi", standalone_mode=False, obj=arguments) or 0
        sys.stdout.flush()
        return code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:  # whoever reads has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for Python, which flushes once more as it ends
        return 1
    except (CifarHapiError, ArithmeticError, ImportError, OSError) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        told = getattr(error, "told", isinstance(error, ArithmeticError))  # a loss that is no number is that of all
        if is_first() or not told:
            click.echo(f"error: {error}", err=True)
        return getattr(error, "exit_code", 1)


def _warn(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning as one line, without the place in the code."""
    click.echo(f"warning: {message}", err=True)


def _complete_recipe(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in recipe_names() if name.startswith(incomplete)]


def _check_restarts(nproc: int, max_restart: int) -> None:
    if max_restart and nproc == 1:
        raise click.UsageError("--max-restart needs --nproc: one process cannot outlive itself")


def _common(command: Any) -> Any:
    quiet = click.option("--quiet", is_flag=True, help="Print errors and results only.")
    debug = click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
    return quiet(debug(command))


_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Where the archive or its folder is looked for first."
)
_engine = click.option("--engine", help="auto, native or onednn; by default what the run's recipe says.")
_device = click.option("--device", default="auto", show_default=True, help="auto, cpu, gpu or gpu:N.")
_weights = click.option("--weights", type=click.Choice(["latest", "best"]), default="latest", show_default=True)
_overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated."
)
_nproc = click.option(
    "--nproc", type=click.IntRange(min=1), default=1, help="Train by so many processes on this machine."
)
_max_restart = click.option(
    "--max-restart",
    type=click.IntRange(min=0),
    default=0,
    help="With --nproc: how often all processes are started again when one has been killed or lost.",
)
_no_report = click.option("--report/--no-report", default=True, help="Write a page about the run at its end.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cifar-hapi")
def cli() -> None:
    """Train, evaluate and use CIFAR image classifiers with Paddle's high-level API.

    \b
    Example:  cifar-hapi train quick
              cifar-hapi evaluate
    """


@cli.command()
@click.argument("recipe", default="quick", shell_complete=_complete_recipe)
@click.option("--data", help="auto, cifar10, cifar100, synthetic, or a folder of class folders of images.")
@_data_dir
@click.option("--epochs", type=int)
@click.option("--batch-size", type=int)
@click.option("--seed", type=int)
@click.option(
    "--weights", metavar="FILE", help="Begin with the weights of a .pdparams or safetensors file, a run, or imagenet."
)
@click.option("--run-dir", type=click.Path(path_type=Path), help="A new directory; by default runs/RECIPE-TIME.")
@click.option("--resume", is_flag=True, help="Go on with the run in --run-dir, if it has been begun.")
@click.option("--engine", help="auto, native or onednn.")
@_device
@_nproc
@_max_restart
@_overrides
@_no_report
@_common
@click.pass_obj
def train(
    arguments: list[str],
    /,
    recipe: str,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    resume: bool,
    device: str,
    nproc: int,
    max_restart: int,
    report: bool,
    quiet: bool,
    **named: Any,
) -> None:
    """Train RECIPE (a built-in name or a TOML file; quick by default) and evaluate it on the test set.

    \b
    Example:  cifar-hapi train resnet20 --epochs 4 --set schedule.name=one_cycle
              cifar-hapi train article --weights resnet18.pdparams
    """
    changes = overrides_by_key(**named) | dict(map(parse_override, overrides))
    resolved = Recipe.load(recipe, changes)
    if resume and run_dir is None:
        raise click.UsageError("--resume needs --run-dir: which run is to go on?")
    _check_restarts(nproc, max_restart)
    if nproc > resolved.batch_size:
        raise RecipeError(f"--nproc {nproc}: a batch of {resolved.batch_size} has no image for each; at most that many")
    if nproc > 1:
        if run_dir and not resume:
            free_run_path(run_dir)  # which each process would find out after seconds
        named_run = [] if run_dir else ["--run-dir", str(new_run_path(resolved.name))]  # for restarts to find
        raise click.exceptions.Exit(launch([*arguments, *named_run], nproc, device, max_restart, again=["--resume"]))
    prepare_process()
    from cifar_hapi import terminal
    from cifar_hapi.training import fit

    options: dict[str, Any] = {"device": device, "verbose": 0 if quiet else 1, "report": report}
    run = fit(resolved, run_dir=run_dir, resume=resume, **options)
    if quiet and run.evaluation and is_first():
        terminal.headline(terminal.console(), run.evaluation)


@cli.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--epochs", type=int, help="More than the run was to have extend it.")
@click.option("--allow-changes", is_flag=True, help="Go on although the recipe or the data are not the run's.")
@_data_dir
@_device
@_nproc
@_max_restart
@_overrides
@_no_report
@_common
@click.pass_obj
def resume(
    arguments: list[str],
    /,
    run: Path | None,
    overrides: tuple[str, ...],
    allow_changes: bool,
    device: str,
    nproc: int,
    max_restart: int,
    report: bool,
    quiet: bool,
    **named: Any,
) -> None:
    """Go on with RUN (by default the newest in runs/) where it was interrupted, and evaluate it.

    On the same machine, by as many processes, it ends bit for bit as if it had never stopped.

    \b
    Example:  cifar-hapi resume runs/resnet20-20260101-120000
              cifar-hapi resume runs/resnet20-20260101-120000 --epochs 20
    """
    changes = overrides_by_key(**named) | dict(map(parse_override, overrides))
    check_run(run)
    _check_restarts(nproc, max_restart)
    if max_restart and run is None:
        raise click.UsageError("--max-restart needs RUN: at a restart, the newest may be another one")
    if nproc > 1:
        raise click.exceptions.Exit(launch(arguments, nproc, device, max_restart))
    prepare_process()
    from cifar_hapi import terminal
    from cifar_hapi.run import Run
    from cifar_hapi.training import fit

    begun = Run(run) if run else Run.newest()
    options: dict[str, Any] = {
        "device": device,
        "verbose": 0 if quiet else 1,
        "report": report,
        "allow_changes": allow_changes,
    }
    found = fit(begun.recipe.with_overrides(changes), run_dir=begun.path, resume=True, **options)
    if quiet and found.evaluation and is_first():
        terminal.headline(terminal.console(), found.evaluation)


@cli.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--data", help="Another source than the run's own, with the same classes.")
@_data_dir
@_weights
@click.option("--batch-size", type=click.IntRange(min=1))
@click.option(
    "--views",
    type=click.Choice(get_args(Views)),
    help="Average over views of each image (test-time augmentation); by default as the run's recipe says.",
)
@_engine
@_device
@_json
@_common
def evaluate(run: Path | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Evaluate RUN (by default the newest in runs/) on every image of its test set.

    The result replaces the run's evaluation.json, from which reports and comparisons take it.

    \b
    Example:  cifar-hapi evaluate runs/quick-20260101-120000 --json
    """
    check_run(run)
    prepare_process()
    from cifar_hapi import terminal
    from cifar_hapi.evaluation import evaluate as evaluate_run
    from cifar_hapi.run import Run

    found = Run(run) if run else Run.newest()
    if not (as_json or quiet):
        unfinished = "" if found.status == "finished" else f" (not finished: {found.status})"
        click.echo(f"run: {found.path}{unfinished}")
    evaluation = evaluate_run(found, verbose=0 if quiet else 1, **options)
    if as_json:
        click.echo(json.dumps(evaluation, indent=1))
    else:
        (terminal.headline if quiet else terminal.show_evaluation)(terminal.console(), evaluation)
        click.echo(f"recorded in {found.path / 'evaluation.json'}, which reports and comparisons read")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@_weights
@_engine
@_device
@_json
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: image, class, and a probability for every class.")
@_common
def predict(run: Path, images: tuple[Path, ...], as_json: bool, as_csv: bool, quiet: bool, **options: Any) -> None:
    """Classify IMAGES, files or folders of them, with the weights of RUN.

    \b
    Example:  cifar-hapi predict runs/quick-20260101-120000 cat.png photos/ --csv
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    check_run(run)
    prepare_process()
    from cifar_hapi import terminal
    from cifar_hapi.prediction import predict as predict_images
    from cifar_hapi.run import Run

    found = Run(run)
    predictions = predict_images(found, images, **options)
    if found.data.name == "synthetic" and not quiet:
        click.echo(f"{run} was trained on generated images: what it says of photos means nothing", err=True)
    if as_json:
        click.echo(json.dumps(predictions.records(), indent=1))
    elif as_csv:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(["image", "class", *predictions.class_names])
        rows.writerows(
            [source, name, *row]
            for source, name, row in zip(predictions.sources, predictions.names, predictions.probabilities, strict=True)
        )
    else:
        terminal.show_predictions(terminal.console(), predictions)


_DIAGNOSIS = "Whether to look for what is wrong, by images of the run's data; without, no data are needed."


@cli.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@_data_dir
@_weights
@click.option("--diagnosis/--no-diagnosis", default=True, help=_DIAGNOSIS)
@click.option(
    "--html",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="Write a page with pictures, by default RUN/bn/page.html.",
)
@_json
@_common
def bn(run: Path | None, html: str | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Show the batch norm of RUN (by default the newest in runs/): its layers, how they got there, what is wrong.

    \b
    Example:  cifar-hapi bn
              cifar-hapi bn runs/quick-20260101-120000 --html
    """
    if html and run is None and is_run(html):
        raise RecipeError(f"{html} is a run, not a file for the page: name it first: cifar-hapi bn {html} --html")
    check_run(run)
    prepare_process()
    from rich.console import Console

    from cifar_hapi.batch_norm.inspection import inspect_batch_norm
    from cifar_hapi.batch_norm.table import show, show_summary
    from cifar_hapi.report import check_page
    from cifar_hapi.run import Run

    found = Run(run) if run else Run.newest()
    page = None if html is None else Path(html or found.bn_page_path)
    if page is not None:
        check_page(page)
    inspection = inspect_batch_norm(found, **options)
    # The page first: who reads the table may leave before its end.
    written = None if page is None else inspection.write_html(page)
    if as_json:
        click.echo(json.dumps(inspection.to_dict(), indent=1))
    else:
        (show_summary if quiet else show)(Console(highlight=False, markup=False), inspection)
    if written is not None:
        click.echo(f"page: {written}", err=as_json)


@cli.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(["paddle", "onnx"]), default="paddle", show_default=True)
@click.option("--fold-bn", is_flag=True, help="Make batch norm a part of the convolutions.")
@click.option("--uint8-input", is_flag=True, help="Take uint8 [N, H, W, 3] and normalise in the model.")
@click.option("--int8", is_flag=True, help="Whole numbers of 8 bits, batch norm folded; needs the run's images.")
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    show_default="512",
    help="Training images that int8 takes its ranges from.",
)
@click.option(
    "--max-fall",
    type=click.FloatRange(0, 100),
    show_default="1",
    help="Percentage points of top-1 that int8 may cost.",
)
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="A new folder; by default in RUN/export/.")
@_data_dir
@_weights
@_json
@_common
def export(run: Path | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Write the network of RUN (by default the newest in runs/) for use elsewhere, and see that it says the same there.

    \b
    Example:  cifar-hapi export
              cifar-hapi export runs/quick-20260101-120000 --format onnx --fold-bn --uint8-input
              cifar-hapi export --format onnx --int8
    """
    check_run(run)
    prepare_process()
    from cifar_hapi.exporting import export as export_run
    from cifar_hapi.run import Run

    found = export_run(Run(run) if run else Run.newest(), **options)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        click.echo(str(found.path) if quiet else str(found))


def _limits(command: Any) -> Any:
    """The options that `ServingOptions` has."""
    for limit in reversed(fields(ServingOptions)):
        default = on_command_line(limit)
        kind = click.IntRange(min=1) if isinstance(default, int) else click.FloatRange(min=0)
        option, text = limit.metadata["option"], limit.metadata["text"]
        command = click.option(option, limit.name, type=kind, default=default, show_default=True, help=text)(command)
    return command


@cli.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; loopback is this machine alone.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 is any that is free.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name it may be asked by; may be repeated.")
@_weights
@_engine
@_device
@_limits
@_common
def serve(run: Path | None, host: str, port: int, allow_host: tuple[str, ...], quiet: bool, **named: Any) -> None:
    """Serve a page and a JSON API that classify images by RUN (by default the newest in runs/).

    \b
    Example:  cifar-hapi serve
              curl -F image=@cat.png http://127.0.0.1:8000/predict
    """
    check_libraries()
    network = {key: named.pop(key) for key in ("weights", "engine", "device")}
    options = ServingOptions.from_command_line(**named)
    if not Address.of(host, port).loopback:
        click.echo(f"warning: host {host}: whoever reaches it can send images; nothing is encrypted", err=True)
    check_run(run)
    prepare_process()
    from cifar_hapi.run import Run
    from cifar_hapi.serving.launch import serve as serve_run

    found = Run(run) if run else Run.newest()

    def tell(url: str) -> None:
        click.echo(url if quiet else f"run {found.path} is served at {url} (Ctrl-C ends it)")

    serve_run(found, host=host, port=port, allow_hosts=allow_host, options=options, on_start=tell, **network)


@cli.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...", type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="By default RUN/report.html.")
@_data_dir
@_common
def report(runs: tuple[Path, ...], out: Path | None, data_dir: Path | None, quiet: bool) -> None:
    """Write a page with pictures about RUN (by default the newest in runs/), or about several RUNs together.

    \b
    Example:  cifar-hapi report
              cifar-hapi report runs/one runs/two --out both.html
    """
    prepare_process()
    from cifar_hapi.report import write_report
    from cifar_hapi.run import Run

    page = write_report(runs or Run.newest(), out, data_dir=data_dir)
    click.echo(str(page) if quiet else f"page: {page}")


@cli.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@_json
@_common
def compare(runs: tuple[Path, ...], as_json: bool, quiet: bool) -> None:
    """Set RUNs beside each other: what came of them, and in what their recipes differ.

    \b
    Example:  cifar-hapi compare runs/*
    """
    prepare_process()
    from rich.console import Console

    from cifar_hapi.comparison import compare as compare_runs
    from cifar_hapi.comparison_table import show

    found = compare_runs(runs)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        show(Console(highlight=False, markup=False), found, notes=not quiet)


@cli.command()
@click.argument("name", required=False, shell_complete=_complete_recipe)
@_json
@_common
def recipes(name: str | None, as_json: bool, quiet: bool) -> None:
    """List the built-in recipes, or print the one called NAME.

    \b
    Example:  cifar-hapi recipes resnet20 > mine.toml && cifar-hapi train mine.toml
    """
    chosen = [Recipe.load(each) for each in ([name] if name else recipe_names())]
    if as_json:
        click.echo(json.dumps([recipe.to_dict() for recipe in chosen], indent=1))
    elif name:
        click.echo(recipe_text(name), nl=False)
    else:
        width = max(len(recipe.name) for recipe in chosen)
        click.echo("\n".join(f"{recipe.name:{width}}  {recipe.description}" for recipe in chosen))


@cli.command()
@_json
@_common
def doctor(as_json: bool, quiet: bool) -> None:
    """Tell what this machine and installation offer to a training; answer 1 if it would not work.

    \b
    Example:  cifar-hapi doctor
    """
    from rich.console import Console

    from cifar_hapi.doctor import examine, show, show_verdict

    found = examine()
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        (show_verdict if quiet else show)(Console(highlight=False, markup=False), found)
    if not found.training_works:
        raise click.exceptions.Exit(1)


@cli.group()
def data() -> None:
    """Fetch, check and look at data sets."""


@data.command()
@click.argument("name", type=click.Choice(["cifar10", "cifar100"]))
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where to put the archive; by default the user's cache.",
)
@_common
def fetch(name: str, data_dir: Path | None, quiet: bool) -> None:
    """Download the archive NAME, checked by its MD5 sum.

    \b
    Example:  cifar-hapi data fetch cifar10
    """
    from cifar_hapi.data.download import ARCHIVES
    from cifar_hapi.data.download import fetch as fetch_archive

    click.echo(str(fetch_archive(ARCHIVES[name], data_dir or cache_folder(), progress=not quiet)))


@data.command()
@click.argument("source", default="cifar10")
@_data_dir
@_json
@_common
def verify(source: str, data_dir: Path | None, as_json: bool, quiet: bool) -> None:
    """Read SOURCE whole (as for train --data) and tell what it holds.

    \b
    Example:  cifar-hapi data verify cifar10 --data-dir ~/data
    """
    from cifar_hapi.data.sources import open_data
    from cifar_hapi.recipe import DataRecipe

    found = open_data(
        DataRecipe(source=source, dir=str(data_dir) if data_dir else None, val_fraction=0.0), progress=not quiet
    )
    identity = found.identity()
    if as_json:
        click.echo(json.dumps(identity.to_dict(), indent=1))
        return
    click.echo(f"{found.name}: {found.source}" + (f"\n{found.note}" if found.note else ""))
    for part, about in identity.parts.items():
        click.echo(f"{part:5} {about.images:6,} images  sha256 {about.sha256}")
    click.echo(f"mean {found.mean}\nstd  {found.std}\nclasses: {', '.join(found.train.class_names)}")


@data.command(name="show")
@click.argument("source", default="auto")
@_data_dir
@click.option("--count", type=click.IntRange(1, 1000), default=30, show_default=True, help="How many images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Chooses which.")
@click.option("--augmented", is_flag=True, help="As a network in training sees them, by the augmentation of --recipe.")
@click.option("--recipe", default="quick", show_default=True, shell_complete=_complete_recipe)
@click.option("--out", metavar="FILE.png", type=click.Path(path_type=Path), help="Instead of in the terminal.")
@_common
def show_data(source: str, out: Path | None, quiet: bool, **options: Any) -> None:
    """Show training images of SOURCE (as for train --data), with their classes.

    \b
    Example:  cifar-hapi data show
              cifar-hapi data show cifar10 --augmented --out grid.png
    """
    from rich.console import Console

    from cifar_hapi.data.examples import choose_examples
    from cifar_hapi.data.picture_grid import write_grid
    from cifar_hapi.data.terminal_pictures import check_can_show, show

    screen = Console()
    if out is None:
        check_can_show(screen)
    found = choose_examples(source, progress=not quiet, **options)
    if found.note:
        click.echo(found.note, err=True)
    if out is None:
        show(screen, found)
    else:
        click.echo(f"picture: {write_grid(found, out)}")
