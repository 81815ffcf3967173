"""Batch normalisation: its formulas, what is wrong with it, and what mends, freezes, synchronises and folds it."""

from cifar_hapi.batch_norm.folding import Folding, fold_batch_norm
from cifar_hapi.batch_norm.freezing import FrozenBatchNorm, freeze_batch_norm
from cifar_hapi.batch_norm.recalibration import Change, Recalibration, recalibrate
from cifar_hapi.batch_norm.synchronisation import convert_sync_batch_norm

__all__ = [
    "Change",
    "Folding",
    "FrozenBatchNorm",
    "Recalibration",
    "convert_sync_batch_norm",
    "fold_batch_norm",
    "freeze_batch_norm",
    "recalibrate",
]
