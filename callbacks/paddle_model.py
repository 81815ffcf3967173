"""The one place where callbacks touch what `paddle.Model` and its optimiser keep private."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import paddle
from paddle import nn

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


def network_of(model: Any) -> nn.Layer:
    """The network of a `paddle.Model`; a `paddle.nn.Layer` is one. Raises TypeError for anything else."""
    network = model.network if isinstance(model, paddle.Model) else model
    if not isinstance(network, nn.Layer):
        raise TypeError(f"a {type(model).__name__} is neither a paddle.Model nor a paddle.nn.Layer")
    return network


def model_like(model: Any, network: nn.Layer) -> Any:
    """A model of the class of `model` around another network, with its loss, copies of its metrics, no optimiser."""
    other = type(model)(network, model._inputs, model._labels)
    if hasattr(model, "_metrics"):  # it is prepared
        other.prepare(loss=model._loss, metrics=copy.deepcopy(model._metrics))
    return other


def loss_scale(model: Any) -> Any:
    """What loss and gradients are multiplied by until the update; None for nothing.

    By mixed precision, and where several processes share a batch, by the share of this one (`cifar_hapi.Model`).
    """
    scale, share = getattr(scaler(model), "_scale", None), getattr(model, "share", 1.0)  # a scaler that is off has none
    return scale if share == 1.0 else share if scale is None else scale * share


def weights(model: Any) -> Tensors:
    """Parameters and buffers of the model's network by name, copied to the host."""
    return {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}


def set_weights(model: Any, tensors: Tensors) -> None:
    """Put `weights` back, all of them, in place. Raises ValueError naming the first that differ in name or shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.network.state_dict().items()}
    check_shapes(expected, tensors, "network")
    model.network.set_state_dict(tensors)


def inputs_and_labels(model: Any, batch: Any) -> tuple[list[Any], list[Any]]:
    """A batch, nested as may be, split where Paddle does: the inputs, as many as the network's forward takes, first."""
    parts, count = list(paddle.utils.flatten(batch)), len(model._inputs or [None])
    return parts[:count], parts[count:]


def as_tensors(parts: Iterable[Any]) -> list[paddle.Tensor]:
    """Paddle's tensors of arrays; those that are tensors as they are, not copied."""
    return [part if isinstance(part, paddle.Tensor) else paddle.to_tensor(part) for part in parts]


def norm_layers(network: nn.Layer) -> dict[str, nn.Layer]:
    """The batch-norm layers by name; in a network that is nothing else, the name is empty."""
    kinds = (nn.BatchNorm, nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)
    return {name: each for name, each in network.named_sublayers(include_self=True) if isinstance(each, kinds)}


def norm_tensors(norm: nn.Layer) -> dict[str, Any]:
    """What a batch-norm layer holds, each [C]; no scale and no shift where it was made without."""
    statistics = {"running_mean": norm._mean, "running_variance": norm._variance}
    return {**statistics, "scale": norm.weight, "shift": norm.bias}


def channel_axis(norm: nn.Layer, ndim: int) -> int:
    """Where the channels are in what a batch norm is given, of `ndim` axes."""
    layout = norm._data_layout if isinstance(norm, nn.BatchNorm) else norm._data_format
    return -1 if layout.endswith("C") and ndim > 2 else 1


def all_axes_but_channels(norm: nn.Layer, ndim: int) -> list[int]:
    """The axes that a batch-norm layer takes mean and variance over, of an input with so many."""
    channels = channel_axis(norm, ndim) % ndim
    return [axis for axis in range(ndim) if axis != channels]


def input_shape(layer: nn.Layer) -> tuple[str, ...] | None:
    """What a convolution, a linear layer or a batch norm takes, axis by axis, such as ("N", "3", "H", "W")."""
    if isinstance(layer, nn.Linear):
        return "N", "...", str(layer.weight.shape[0])
    if isinstance(layer, nn.Conv1D | nn.Conv2D | nn.Conv3D):
        channels = str(layer._in_channels)
        return tuple(channels if axis == "C" else axis for axis in layer._data_format)
    if norm_layers(layer):
        channels = str(layer._mean.shape[0])
        return ("N", channels, "...") if channel_axis(layer, 3) == 1 else ("N", "...", channels)
    return None


def keeps_statistics(norm: nn.Layer) -> bool:
    """Whether in training mode its running statistics follow what it sees."""
    return not norm._use_global_stats


def global_statistics(norm: nn.Layer) -> bool | None:
    """Its `use_global_stats`: True normalises by the running statistics in either mode, None in evaluation mode."""
    return norm._use_global_stats


def set_global_statistics(norm: nn.Layer, value: bool | None) -> None:
    """Set what `global_statistics` gives, from the next forward pass on. `SyncBatchNorm` takes no notice."""
    norm._use_global_stats = value


def batch_statistics_in_evaluation(norm: nn.Layer) -> bool:
    """Whether it normalises by the batch, and moves its running statistics, in evaluation mode, too."""
    if isinstance(norm, nn.BatchNorm):
        return bool(norm._trainable_statistics)
    return norm._use_global_stats is False


def weight_decay(optimizer: Any, parameter: Any) -> float:
    """The coefficient of the L1 or L2 decay, or AdamW's, by which an optimiser pulls at `parameter`; 0 for none."""
    if parameter is None or parameter.stop_gradient:
        return 0.0
    if isinstance(optimizer, paddle.optimizer.AdamW):
        chosen = optimizer._apply_decay_param_fun
        return float(optimizer._weight_decay) if chosen is None or chosen(parameter.name) else 0.0
    regularizer = getattr(parameter, "regularizer", None) or optimizer.regularization
    if regularizer is None:  # Momentum keeps an L2 decay elsewhere
        return float(getattr(optimizer, "_regularization_coeff", 0.0))
    return float(regularizer._coeff)


@contextlib.contextmanager
def batch_statistics(model: Any, norms: Iterable[nn.Layer]) -> Iterator[None]:
    """Within it `norms` keep mean and variance of the last batch alone, and all else is in evaluation mode."""
    momenta = [(layer, layer._momentum) for layer in norms]
    with modes_kept(model.network):
        try:
            model.network.eval()
            for layer, _ in momenta:
                layer.train()
                layer._momentum = 0.0
            yield
        finally:
            for layer, momentum in momenta:
                layer._momentum = momentum


@contextlib.contextmanager
def modes_kept(network: nn.Layer) -> Iterator[None]:
    """Each layer is in training or evaluation mode afterwards as it was before."""
    modes = [(layer, layer.training) for layer in network.sublayers(include_self=True)]
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def check_shapes(expected: dict[str, tuple[int, ...]], tensors: Tensors, what: str) -> None:
    """Raise ValueError, one line with the first three differences, unless `tensors` have the `expected` shapes."""
    if differences := shape_differences(expected, tensors):
        raise ValueError(f"is of another {what}: {differences}")


def shape_differences(expected: dict[str, tuple[int, ...]], tensors: Tensors, most: int = 3) -> str:
    """The first names (`most`) whose shapes are not those `expected`, and how many more there are; "" if none are."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differing = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    first = "; ".join(
        f"{name}: {list(found[name]) if name in found else 'none'}, "
        f"here {list(expected[name]) if name in expected else 'none'}"
        for name in differing[:most]
    )
    return first + (f"; and {len(differing) - most} more" if len(differing) > most else "")


def is_gradient(value: paddle.Tensor | None) -> bool:
    """Whether what a hook is called with is one: for none, Paddle 3.3 gives None, 2.6 a tensor without memory."""
    return value is not None and bool(value._is_initialized())


def initial_seed() -> int:
    """What Paddle's generator of the CPU was seeded with last."""
    return int(paddle.framework.core.default_cpu_generator().initial_seed())
