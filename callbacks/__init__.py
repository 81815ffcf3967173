"""Callbacks for any `paddle.Model`."""

from callbacks.checkpoint import Checkpoint
from callbacks.checkpoint_folder import CheckpointError, CheckpointFolder
from callbacks.early_stopping import EarlyStopping
from callbacks.exponential_moving_average import ExponentialMovingAverage
from callbacks.history import History, read_history
from callbacks.progress import Progress
from callbacks.terminate_on_nan import NonFiniteLoss, TerminateOnNaN
from callbacks.watch import UnknownMetric

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointFolder",
    "EarlyStopping",
    "ExponentialMovingAverage",
    "History",
    "NonFiniteLoss",
    "Progress",
    "TerminateOnNaN",
    "UnknownMetric",
    "read_history",
]
