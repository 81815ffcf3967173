"""The one place where callbacks touch what `paddle.Model` keeps private."""

from __future__ import annotations

from typing import Any

import numpy as np


def learning_rate(model: Any) -> float:
    """The rate that the next step takes."""
    return float(model._optimizer.get_lr())


def weights(model: Any) -> dict[str, np.ndarray]:
    """Parameters and buffers of the model's network by name, copied to the host."""
    return {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}
