"""CIFAR image classifiers with Paddle's high-level API: train, evaluate, predict.

The public names load on first use, so that importing the package neither loads Paddle nor changes the process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cifar_hapi._version import __version__

if TYPE_CHECKING:
    from cifar_hapi.batch_norm.diagnosis import diagnose
    from cifar_hapi.batch_norm.folding import Folding, fold_batch_norm
    from cifar_hapi.batch_norm.freezing import FrozenBatchNorm, freeze_batch_norm
    from cifar_hapi.batch_norm.inspection import Inspection, inspect_batch_norm
    from cifar_hapi.batch_norm.observation import Training
    from cifar_hapi.batch_norm.recalibration import Recalibration, recalibrate
    from cifar_hapi.batch_norm.synchronisation import convert_sync_batch_norm
    from cifar_hapi.engine import EngineChoice, accelerate
    from cifar_hapi.errors import CifarHapiError, DataError, LostProcess, RecipeError, RunError
    from cifar_hapi.evaluation import evaluate
    from cifar_hapi.exporting.run_export import Export, export
    from cifar_hapi.loading import load
    from cifar_hapi.model import Model
    from cifar_hapi.muon import Muon
    from cifar_hapi.networks import build_network
    from cifar_hapi.networks.airbench import whitening_filters
    from cifar_hapi.prediction import Predictions, predict
    from cifar_hapi.recipe import Recipe
    from cifar_hapi.run import Run
    from cifar_hapi.saving import save_as_run
    from cifar_hapi.serving.launch import serve
    from cifar_hapi.serving.options import ServingOptions
    from cifar_hapi.training import fit
    from cifar_hapi.views import AveragedViews

_HOMES = {
    "AveragedViews": "views",
    "CifarHapiError": "errors",
    "DataError": "errors",
    "EngineChoice": "engine",
    "Export": "exporting.run_export",
    "Folding": "batch_norm.folding",
    "FrozenBatchNorm": "batch_norm.freezing",
    "Inspection": "batch_norm.inspection",
    "LostProcess": "errors",
    "Model": "model",
    "Muon": "muon",
    "Predictions": "prediction",
    "Recalibration": "batch_norm.recalibration",
    "Recipe": "recipe",
    "RecipeError": "errors",
    "Run": "run",
    "RunError": "errors",
    "ServingOptions": "serving.options",
    "Training": "batch_norm.observation",
    "accelerate": "engine",
    "build_network": "networks",
    "convert_sync_batch_norm": "batch_norm.synchronisation",
    "diagnose": "batch_norm.diagnosis",
    "evaluate": "evaluation",
    "export": "exporting.run_export",
    "fit": "training",
    "fold_batch_norm": "batch_norm.folding",
    "freeze_batch_norm": "batch_norm.freezing",
    "inspect_batch_norm": "batch_norm.inspection",
    "load": "loading",
    "predict": "prediction",
    "recalibrate": "batch_norm.recalibration",
    "save_as_run": "saving",
    "serve": "serving.launch",
    "whitening_filters": "networks.airbench",
}

__all__ = [
    "AveragedViews",
    "CifarHapiError",
    "DataError",
    "EngineChoice",
    "Export",
    "Folding",
    "FrozenBatchNorm",
    "Inspection",
    "LostProcess",
    "Model",
    "Muon",
    "Predictions",
    "Recalibration",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "ServingOptions",
    "Training",
    "__version__",
    "accelerate",
    "build_network",
    "convert_sync_batch_norm",
    "diagnose",
    "evaluate",
    "export",
    "fit",
    "fold_batch_norm",
    "freeze_batch_norm",
    "inspect_batch_norm",
    "load",
    "predict",
    "recalibrate",
    "save_as_run",
    "serve",
    "whitening_filters",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(".runtime", __name__).require_paddle()
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
