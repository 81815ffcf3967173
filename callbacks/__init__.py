"""Callbacks for any `paddle.Model`."""

from .checkpoint import Checkpoint
from .checkpoint_folder import CheckpointError, CheckpointFolder
from .history import History, read_history
from .progress import Progress
from .terminate_on_nan import NonFiniteLoss, TerminateOnNaN

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
