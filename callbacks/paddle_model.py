"""The one place where callbacks touch what `paddle.Model` and its optimiser keep private."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

Tensors = dict[str, np.ndarray]


def learning_rate(model: Any) -> float:
    """The rate that the next step takes."""
    return float(model._optimizer.get_lr())


def optimizer(model: Any) -> Any:
    """What `prepare` was given; None if nothing."""
    return model._optimizer


def scheduler(model: Any) -> Any:
    """The `LRScheduler` that the optimiser takes its rate from, None where the rate is a plain number."""
    rate = model._optimizer._learning_rate
    return rate if isinstance(rate, paddle.optimizer.lr.LRScheduler) else None


def scaler(model: Any) -> Any:
    """The `paddle.amp.GradScaler` of mixed precision, None without it or before Paddle's first step."""
    return getattr(model, "_scaler", None)


def metrics(model: Any) -> list[Any]:
    """The `paddle.metric.Metric`s that `prepare` was given."""
    return list(model._metrics)


def weights(model: Any) -> Tensors:
    """Parameters and buffers of the model's network by name, copied to the host."""
    return {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}


def set_weights(model: Any, tensors: Tensors) -> None:
    """Put `weights` back, all of them, in place. Raises ValueError naming the first that differ in name or shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.network.state_dict().items()}
    check_shapes(expected, tensors, "network")
    model.network.set_state_dict(tensors)


def check_shapes(expected: dict[str, tuple[int, ...]], tensors: Tensors, what: str) -> None:
    """Raise ValueError, one line with the first three differences, unless `tensors` have the `expected` shapes."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differing = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if differing:
        first = "; ".join(
            f"{name}: {list(found[name]) if name in found else 'none'}, "
            f"here {list(expected[name]) if name in expected else 'none'}"
            for name in differing[:3]
        )
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(f"is of another {what}: {first}{more}")


def initial_seed() -> int:
    """What Paddle's generator of the CPU was seeded with last."""
    return int(paddle.framework.core.default_cpu_generator().initial_seed())
