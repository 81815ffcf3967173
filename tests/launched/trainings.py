"""Trainings by several processes; what each process saw goes to a file of its rank.

python -m paddle.distributed.launch --nproc_per_node 2 tests/launched/trainings.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from paddle.callbacks import Callback
from small_training import small_fit

from callbacks import LambdaCallback
from callbacks.paddle_model import norm_layers, norm_tensors
from cifar_hapi import CifarHapiError, beginning, evaluate
from cifar_hapi.distributed import ranks

# 270 images to train on in batches of 62, 30 to validate and 97 to test in batches of 20: nothing divides by 4.
OPTIONS = {
    "network.name": "resnet20",
    "batch_size": 62,
    "eval_batch_size": 20,
    "network.norm": "none",
    "augment.cutout": 4,
    "augment.flip": "random",
    "optimizer.lr": 0.02,
    "schedule.name": "constant",
    "engine": "onednn",
    "precision": "float32",
}
SAVING = {**OPTIONS, "checkpoint.every_steps": 6}


class InterruptedAt(Callback):
    """Ends the training after so many steps, as Ctrl-C would, in all processes alike."""

    def __init__(self, steps: int):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, step, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def data_of(folder: Path) -> Path:
    return folder / "data"


def whole(folder: Path, losses: list[float]):
    """The training that is to be the same whatever the number of processes; the loss of each step goes to `losses`."""
    noting = LambdaCallback(on_train_batch_end=lambda step, logs: losses.append(logs["batch_loss"]))
    return small_fit(data_of(folder), folder / "whole", callbacks=[noting], **OPTIONS)


def synchronised(folder: Path, losses: list[float]):
    """As `whole`, with batch norm, whose batch is that of all processes."""
    noting = LambdaCallback(on_train_batch_end=lambda step, logs: losses.append(logs["batch_loss"]))
    norm = {"network.norm": "batch", "network.sync_batch_norm": True, "bn_stats.every_epochs": 1, "bn_stats.probe": 7}
    slow = {"optimizer.lr": 0.002}  # else what is rounded differently grows tenfold a step
    return small_fit(data_of(folder), folder / "synchronised", callbacks=[noting], **OPTIONS | norm | slow)


def with_norm(folder: Path):
    norm = {"network.norm": "batch", "averaging.decay": 0.9, "bn_stats.every_epochs": 1, "bn_stats.gradients": True}
    stopping = {"early_stopping.patience": 5, "early_stopping.restore_best": True}
    return small_fit(data_of(folder), folder / "norm", **{**OPTIONS, **norm, **stopping})


def interrupted(folder: Path, name: str) -> str:
    """A training that ends in its second epoch; what became of it."""
    try:
        small_fit(data_of(folder), folder / name, callbacks=[InterruptedAt(6)], **SAVING)
    except KeyboardInterrupt:
        return "interrupted"
    return "finished"


def resumed(folder: Path, name: str):
    return small_fit(data_of(folder), folder / name, resume=True, **SAVING)


def refusals(folder: Path) -> dict[str, str]:
    rank, found = ranks.rank(), {}
    alike = beginning.versions

    def other_versions():
        return alike() | ({"paddle": "0.1"} if rank else {})

    def refused(name, path, data="data", **options):
        try:
            small_fit(folder / data, folder / path, **OPTIONS | options)
            found[name] = "no error"
        except CifarHapiError as error:
            found[name] = f"{type(error).__name__}{' (told)' if error.told else ''}: {error}"

    refused("exists", "whole")
    refused("recipe", "new", **{"optimizer.lr": 0.1 * (rank + 1)})
    beginning.versions = other_versions
    refused("versions", "new")
    beginning.versions = alike
    refused("data", "new", data="data" if rank == 0 else "other data")
    refused("one", "new", data="data" if rank == 0 else "nowhere")
    return found


def main(folder: Path) -> None:
    ranks.join()
    rank, written = ranks.rank(), []

    def note(event, arguments):
        opened = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if opened or event in ("os.mkdir", "os.rename"):
            written.append(str(arguments[0]))

    sys.addaudithook(note)
    losses: list[float] = []
    run = whole(folder, losses)
    seen = {"processes": ranks.count(), "losses": losses, "evaluated": evaluate(run.path), "trained": run.evaluation}
    seen["synchronised"] = synchronised_losses = []
    synchronised(folder, synchronised_losses)
    if ranks.count() == 2:
        normed = with_norm(folder)
        seen["statistics"] = [
            norm_tensors(norm)["running_mean"].tolist() for norm in norm_layers(normed.model.network).values()
        ]
        seen["interrupted"] = interrupted(folder, "of two")
        seen["resumed"] = resumed(folder, "of one").status
        seen["refusals"] = refusals(folder)
    seen["written"] = [path for path in written if path.startswith(str(folder))]
    (folder / f"rank-{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
