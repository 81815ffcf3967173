"""Make the runs beside docs/results.md on the whole of CIFAR-10, one after the other, and publish each.

    python docs/results/train.py                    # all that are not there yet
    python docs/results/train.py plain20 resnet56   # these, with all their seeds
    python docs/results/train.py --under bfloat16 quick  # in folders of that name, apart from another machine's

It can be stopped at any moment; started again, it goes on within the training that it was in. One that fails, as that
from pretrained weights without them, is told of at the end, and the others are made. Runs are kept in runs/results,
what is published of them in docs/results. CIFAR-10 is found as by `cifar-hapi train --data cifar10`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLERS = dict(os.environ)  # before Paddle is imported, which sets OMP_NUM_THREADS to 1, for its children too

from publish import publish  # noqa: E402  beside this file

from cifar_hapi import Recipe, RecipeError, Run  # noqa: E402
from cifar_hapi.recipe import differing_keys, parse_override  # noqa: E402

RUNS, RESULTS = Path("runs/results"), Path(__file__).parent
DATA = "cifar10"
STOPPED = (130, 143)  # by Ctrl-C, by SIGTERM


@dataclass(frozen=True)
class Trained:
    """A recipe, what is changed of it, and for how many seeds it is trained."""

    recipe: str
    changes: tuple[str, ...] = ()
    seeds: int = 1


DEPTHS = ("plain20", "resnet20", "plain56", "resnet56")


def shortened(network: str, epochs: int) -> Trained:
    """The recipe `resnet20` for `network`, with a one-cycle schedule instead of the paper's 182 epochs of steps."""
    return Trained(
        "resnet20",
        (f"network.name={network}", f"epochs={epochs}", "schedule.name=one_cycle", "schedule.milestones=[]"),
    )


ALL: dict[str, Trained] = {
    "quick": Trained("quick", seeds=3),
    "quick-short": Trained("quick", ("epochs=2", "evaluation.views=flip"), seeds=3),
    "speed94": Trained("speed94", seeds=3),
    **{network: shortened(network, epochs=6) for network in DEPTHS},
    "resnet18": shortened("resnet18", epochs=3),
    "speed95": Trained("speed95"),
    "article-32": Trained("article-32"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}")
    parser.add_argument("--under", default=".", help="a folder within runs/results and docs/results")
    arguments = parser.parse_args()
    asked = arguments.names or list(ALL)
    if unknown := [name for name in asked if name not in ALL]:
        sys.exit(f"{', '.join(unknown)}: not among the results, which are {', '.join(ALL)}")
    seeds = [(name, seed) for name in asked for seed in range(ALL[name].seeds)]
    sys.exit(make_all([(str(Path(arguments.under, f"{name}-{seed}")), ALL[name], seed) for name, seed in seeds]))


def make_all(results: Sequence[tuple[str, Trained, int]]) -> str | None:
    """Make each; a message naming those that failed, None if none did. Ctrl-C or SIGTERM ends this program."""
    failed = []
    for name, trained, seed in results:
        try:
            make(name, trained, seed)
        except subprocess.CalledProcessError as error:
            if error.returncode in STOPPED:
                sys.exit(error.returncode)
            failed.append(name)
    return f"not made: {', '.join(failed)}" if failed else None


def make(name: str, trained: Trained, seed: int) -> None:
    path = RUNS / name
    for folder in (RESULTS / name, path):
        check_same(folder, trained, seed)
    if (RESULTS / name / "evaluation.json").exists():
        print(f"{name}: there")
        return
    if not (path / "run.json").exists():
        changes = [part for change in trained.changes for part in ("--set", change)]
        run_command("train", trained.recipe, "--run-dir", str(path), "--data", DATA, "--seed", str(seed), *changes)
    elif Run(path).status != "finished":
        run_command("resume", str(path))
    publish(path, RESULTS / name)
    found = told(RESULTS / name / "evaluation.json")
    without = found.get("without_views")
    views = f" with test-time augmentation, {without['top1']:.2%} without" if without else ""
    print(f"{name}: {found['top1']:.2%} of all {found['images']:,} test images{views}")


def check_same(folder: Path, trained: Trained, seed: int) -> None:
    """Ends this program if what is in `folder` was trained by what the recipe was then, and is no longer."""
    if not (folder / "run.json").exists():
        return
    changes = dict(map(parse_override, trained.changes)) | {"data.source": DATA, "seed": seed}
    recipe = Recipe.load(trained.recipe, changes)
    try:
        then = Recipe.from_dict(told(folder / "run.json")["recipe"])
    except RecipeError as error:
        sys.exit(f"{folder}: trained by another version ({error}); move it away to have it made anew")
    if differing := [key for key in differing_keys(recipe, then) if key not in ("name", "description", "data.dir")]:
        sys.exit(f"{folder}: trained with other {', '.join(differing)} than now; move it away to have it made anew")


def run_command(*arguments: str) -> None:
    """`cifar-hapi` with these arguments; CalledProcessError if it fails: what is there is kept.

    It has its time to save when it is told to end: by Ctrl-C, which it gets from the terminal, or by SIGTERM from here.
    """
    print("cifar-hapi", *arguments, flush=True)
    with subprocess.Popen([sys.executable, "-m", "cifar_hapi", *arguments], env=CALLERS) as child:
        before = {
            signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: child.terminate()),
        }
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if code:
        raise subprocess.CalledProcessError(code, child.args)


def told(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
