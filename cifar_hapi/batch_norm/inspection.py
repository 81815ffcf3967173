"""What the batch-norm layers of a run hold, how they came there, and what is wrong with them: all that is shown."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from callbacks import BatchNormRecords
from callbacks.bn_layout import SUMMARY, summary
from callbacks.paddle_model import norm_tensors
from cifar_hapi.batch_norm.arguments import batch_norms
from cifar_hapi.batch_norm.diagnosis import examine, look
from cifar_hapi.batch_norm.findings import Diagnosis
from cifar_hapi.batch_norm.observation import Distance, Inputs, Observation, distance
from cifar_hapi.errors import DataError, RunError
from cifar_hapi.loading import Weights, checkpoint_step, load
from cifar_hapi.run import Run
from cifar_hapi.runtime import paddle_session

HOW_TO_RECORD = "cifar-hapi train RECIPE --set bn_stats.every_epochs=1   (or [bn_stats] in the recipe)"


@dataclass(frozen=True, eq=False)
class InspectedLayer:
    """One batch norm as it is.

    tensors: `running_mean`, `running_variance`, `scale`, `shift`, float32 [C] each; the last two only where it has
    them. true: what it was given where all layers normalise by the batch, and away: how far running statistics are from
    that; None where the layer wasn't looked at.
    """

    name: str
    tensors: Mapping[str, np.ndarray]
    true: Inputs | None = None
    away: Distance | None = None

    @property
    def channels(self) -> int:
        return len(self.tensors["running_mean"])

    def to_dict(self) -> dict[str, Any]:
        tensors = {
            name: dict(zip(SUMMARY, map(_finite, summary(values).tolist()), strict=True))
            for name, values in self.tensors.items()
        }
        away = None
        if self.away is not None:
            away = {"mean": _finite(self.away.typical_mean), "log_ratio": _finite(self.away.typical_log_ratio)}
        return {"name": self.name, "channels": self.channels, **tensors, "distance": away}


@dataclass(frozen=True, eq=False)
class Inspection:
    """The batch norms of a run with its `weights`, saved after `step` updates.

    layers: in the network's order. data: the name of the run's data set. records: what was recorded as it trained, None
    if nothing was, or where `damage` says why it cannot be read. images: on how many the layers were looked at, 0 if
    they weren't, and then there is no diagnosis.
    """

    run: Path
    data: str
    weights: Weights
    step: int
    layers: tuple[InspectedLayer, ...]
    records: BatchNormRecords | None
    diagnosis: Diagnosis | None
    damage: str = ""

    @property
    def images(self) -> int:
        return 0 if self.diagnosis is None else self.diagnosis.images

    def to_dict(self) -> dict[str, Any]:
        """As JSON: of each tensor the `SUMMARY` over its channels; a number that is none, or infinite, is null."""
        recorded = None
        if self.records is not None:
            kind = "summary" if self.records.summarised else "all"
            moments = {"steps": self.records.steps.tolist(), "epochs": self.records.epochs.tolist()}
            recorded = {"channels": kind, "quantities": list(self.records.quantities), **moments}
        return {
            "run": str(self.run),
            "data": self.data,
            "weights": self.weights,
            "step": self.step,
            "layers": [layer.to_dict() for layer in self.layers],
            "recorded": recorded,
            "damage": self.damage or None,
            "diagnosis": None if self.diagnosis is None else self.diagnosis.to_dict(),
        }

    def show(self, console: Console | None = None) -> None:
        """Print a table of the layers, as wide as the terminal is, and the findings."""
        from cifar_hapi.batch_norm.table import show

        show(console or Console(highlight=False, markup=False), self)

    def write_html(self, path: str | Path) -> Path:
        """Write a page with pictures to look around in; it needs no network. Raises ImportError without plotly."""
        from cifar_hapi.report import write_batch_norm_page

        return write_batch_norm_page(self, Path(path))


def inspect_batch_norm(
    run: Run | str | Path,
    *,
    weights: Weights = "latest",
    diagnosis: bool = True,
    images: int = 1000,
    data_dir: str | Path | None = None,
) -> Inspection:
    """Look at the batch-norm layers of a run.

        inspect_batch_norm("runs/first").show()
        inspect_batch_norm("runs/first").write_html("bn.html")

    weights: "latest", or "best" by the validation split. diagnosis: whether the network is shown `images` images, as
    by `diagnose`; without, no data are needed. data_dir: where these are looked for.

    Records that are damaged are warned of, and left out. Raises RunError for a run or weights that can't be used,
    RecipeError for a network without batch norm, TypeError for what is no run, DataError where the run's images are not
    to be had.
    """
    run = _opened(run)
    step = checkpoint_step(run, weights)
    records, damage = _records(run)
    with paddle_session():
        layers = _layers(run, weights)
    seen = _look(run, weights, images, data_dir) if diagnosis else None
    return Inspection(
        run=run.path,
        data=run.data.name,
        weights=weights,
        step=step,
        layers=tuple(_inspected(name, tensors, seen) for name, tensors in layers.items()),
        records=records if records is not None and len(records) else None,
        diagnosis=examine(seen) if seen else None,
        damage=damage,
    )


def _opened(run: Any) -> Run:
    if not isinstance(run, Run | str | Path):
        kind = type(run).__name__
        raise TypeError(f"inspect_batch_norm: a {kind} is no Run or path of one; of a model, diagnose(model, data)")
    return run if isinstance(run, Run) else Run(run)


def _records(run: Run) -> tuple[BatchNormRecords | None, str]:
    """What was recorded, and why it cannot be read, "" if it can."""
    try:
        return run.bn_stats, ""
    except RunError as error:
        what_to_do = f"remove {run.bn_path}, or its damaged end; layers are shown without their course in training"
        warnings.warn(f"{error}; {what_to_do}", stacklevel=3)
        return None, str(error)


def _layers(run: Run, weights: Weights) -> dict[str, dict[str, np.ndarray]]:
    """Each layer's tensors by name, without those that it doesn't have."""
    here = run.model is not None and weights == "latest"
    network = (run.model if here else load(run, weights, engine="native")).network
    norms = batch_norms(network, f"run {run.path}")
    found = {name: norm_tensors(norm) for name, norm in norms.items()}
    return {
        name: {key: tensor.astype("float32").numpy() for key, tensor in tensors.items() if tensor is not None}
        for name, tensors in found.items()
    }


def _look(run: Run, weights: Weights, images: int, data_dir: str | Path | None) -> Observation:
    try:
        return look(run, weights=weights, images=images, data_dir=data_dir)
    except DataError as error:
        raise DataError(f"{error}; without images there is no diagnosis: --no-diagnosis (diagnosis=False)") from None


def _inspected(name: str, tensors: dict[str, np.ndarray], seen: Observation | None) -> InspectedLayer:
    layer = seen.by_name.get(name) if seen else None
    if layer is None:
        return InspectedLayer(name, tensors)
    return InspectedLayer(name, tensors, layer.trained, distance(layer, layer.trained))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
