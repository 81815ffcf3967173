"""Callbacks for any `paddle.Model`."""

from callbacks.checkpoint import Checkpoint
from callbacks.checkpoint_folder import CheckpointError, CheckpointFolder
from callbacks.history import History, read_history
from callbacks.progress import Progress
from callbacks.terminate_on_nan import NonFiniteLoss, TerminateOnNaN

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointFolder",
    "History",
    "NonFiniteLoss",
    "Progress",
    "TerminateOnNaN",
    "read_history",
]
