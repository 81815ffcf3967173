"""Callbacks for any `paddle.Model`."""

from callbacks.bn_records import BatchNormRecords, load_bn_stats
from callbacks.bn_stats import BatchNormStats
from callbacks.checkpoint import Checkpoint
from callbacks.checkpoint_folder import CheckpointError, CheckpointFolder
from callbacks.early_stopping import EarlyStopping
from callbacks.exponential_moving_average import ExponentialMovingAverage
from callbacks.history import History, read_history
from callbacks.lambda_callback import LambdaCallback
from callbacks.learning_rate_logger import LearningRateLogger
from callbacks.progress import Progress
from callbacks.reduce_lr_on_plateau import ReduceLROnPlateau
from callbacks.step_history import StepHistory
from callbacks.summaries import TensorBoard, VisualDL
from callbacks.terminate_on_nan import NonFiniteLoss, TerminateOnNaN
from callbacks.time_limit import TimeLimit
from callbacks.training_state import ResumePoint
from callbacks.watch import UnknownMetric

__all__ = [
    "BatchNormRecords",
    "BatchNormStats",
    "Checkpoint",
    "CheckpointError",
    "CheckpointFolder",
    "EarlyStopping",
    "ExponentialMovingAverage",
    "History",
    "LambdaCallback",
    "LearningRateLogger",
    "NonFiniteLoss",
    "Progress",
    "ReduceLROnPlateau",
    "ResumePoint",
    "StepHistory",
    "TensorBoard",
    "TerminateOnNaN",
    "TimeLimit",
    "UnknownMetric",
    "VisualDL",
    "load_bn_stats",
    "read_history",
]
