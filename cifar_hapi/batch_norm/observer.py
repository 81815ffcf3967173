"""A few passes through a network, in which its batch-norm layers are watched, and after which all is as it was."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle import nn

from callbacks import random_state
from callbacks.network_input import output_of
from callbacks.paddle_model import (
    Tensors,
    all_axes_but_channels,
    as_tensors,
    batch_statistics,
    batch_statistics_in_evaluation,
    channel_axis,
    inputs_and_labels,
    keeps_statistics,
    modes_kept,
    norm_layers,
    optimizer,
    weight_decay,
    weights,
)
from callbacks.population_statistics import tensor_name
from cifar_hapi.batch_norm.given_images import batches_of, class_numbers, refusals_told
from cifar_hapi.batch_norm.observation import Inputs, NormLayer, Observation, Outcome, Shifted, Training
from cifar_hapi.engine.layers import epsilon, momentum
from cifar_hapi.errors import DataError

Batches = Sequence[tuple[np.ndarray, np.ndarray | None]]


def observe(
    model: Any,
    batches: Batches,
    test_batches: Batches | None = None,
    training: Training | None = None,
    processes: Sequence[Mapping[str, np.ndarray]] = (),
) -> Observation:
    """Look at `model`, a `paddle.Model`, on `batches`: once in evaluation mode, and once by the batches' statistics.

    batches, test_batches: (images as the network takes them, labels int64 [B] or None). With test_batches, three more
    passes on them: as they are, by their own statistics, and with these as running statistics.

    Hooks see the layers, for which a network that runs on the oneDNN engine runs natively, in float32. Modes, weights,
    running statistics, random states and the engine are as before when it is done, or has failed.
    """
    network = model.network
    modes = {id(layer): layer.training for layer in network.sublayers(include_self=True)}
    norms, tensors = norm_layers(network), weights(model)
    with _undisturbed(network, norms), paddle.no_grad():
        network.eval()
        with refusals_told("diagnose: data"):
            deployed = _passed(network, norms, batches)
            with _by_batch(model, norms):
                trained = _passed(network, norms, batches)
        with refusals_told("diagnose: test_data"):
            test = None if test_batches is None else _shifted(model, norms, test_batches)
    layers = [
        _layer(name, norms[name], model, tensors, modes[id(norms[name])], deployed, trained) for name in deployed.inputs
    ]
    return Observation(
        layers=layers,
        unused=[name for name in norms if name not in deployed.inputs],
        images=sum(len(images) for images, _ in batches),
        training_mode=modes[id(network)],
        by_running=deployed.outcome,
        by_batch=trained.outcome,
        tensors=tensors,
        processes=processes,
        training=training or Training(),
        test=test,
    )


def read_batches(model: Any, data: Any, images: int, batch_size: int, what: str = "data") -> Batches:
    """The first `images` of `data`, held in memory, in batches of about `batch_size`, none of them a small rest.

    data: a `paddle.io.Dataset`, an iterable of batches, or arrays: images, or a pair (images, labels). Raises
    TypeError and DataError, naming `what`, for data that is empty, not normalised, not finite in float32, or not one
    image and at most one label.
    """
    what = f"diagnose: {what}"
    taken: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    count = 0
    with random_state.undrawn():
        for batch in batches_of(data, batch_size, what):
            inputs, targets = inputs_and_labels(model, batch)
            if len(inputs) != 1 or len(targets) > 1:
                raise DataError(f"{what}: a batch has {len(inputs)} inputs and {len(targets)} labels, not 1")
            taken.append(_normalised(inputs[0], taken, what))
            labels += [class_numbers(target, what) for target in targets]
            count += len(taken[-1])
            if count >= images:
                break
    if not count:
        raise DataError(f"{what} has no images (left)")
    shown = np.concatenate(taken)[:images]
    _check_finite(shown, what)
    classes = np.concatenate(labels)[:images] if labels else None
    return _in_batches(shown, classes, batch_size, what)


def _normalised(images: Any, before: Sequence[np.ndarray], what: str) -> np.ndarray:
    """Images of a batch, float32. before: those of the batches before it, whose shape they must have."""
    array = np.asarray(images)
    if array.dtype.kind != "f" or not array.ndim:
        found = f"{array.dtype} {list(array.shape)}"
        raise DataError(f"{what}: {found}: expected floats [N, ...], normalised as in training")
    if before and array.shape[1:] != before[0].shape[1:]:
        one, other = (list(each.shape) for each in (array, before[0]))
        raise DataError(f"{what}: batch {len(before)} is {one}, the first is {other}: images must have one size")
    return array.astype(np.float32)


def _check_finite(images: np.ndarray, what: str) -> None:
    """Raise DataError for NaN and infinity: what follows from them would be told of the network."""
    wrong = np.flatnonzero([not np.isfinite(image).all() for image in images])
    if len(wrong):
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DataError(
            f"{what}: images hold NaN or infinity: image {wrong[0]}{more} of {len(images)}, counted from 0; "
            "look at what prepares them"
        )


def _in_batches(images: np.ndarray, labels: np.ndarray | None, batch_size: int, what: str) -> Batches:
    if labels is not None and len(labels) != len(images):
        raise DataError(f"{what}: {len(images)} images have {len(labels)} labels")
    count = -(-len(images) // batch_size)
    parts = np.array_split(images, count)
    targets = itertools.repeat(None, count) if labels is None else np.array_split(labels, count)
    return list(zip(parts, targets, strict=True))


@dataclass
class _Pass:
    """What one pass over batches has shown; `inputs`, by layer, in the order of the first calls."""

    inputs: dict[str, Inputs]
    positive: dict[str, np.ndarray]
    outcome: Outcome | None


def _passed(network: nn.Layer, norms: Mapping[str, nn.Layer], batches: Batches) -> _Pass:
    """Show `batches` to the network as it is."""
    outcomes = []
    with _Watch(network, norms) as watch:
        for images, labels in batches:
            output = output_of(network, as_tensors([images]))
            if labels is not None:
                outcomes.append(_outcome(output, labels))
    parts = [np.concatenate(part) for part in zip(*outcomes, strict=True)]
    inputs = {name: sums.inputs() for name, sums in watch.sums.items()}
    return _Pass(inputs, watch.positive(), Outcome(*parts) if parts else None)


def _outcome(output: Any, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses and whether each is right, of logits [B, classes]."""
    if not isinstance(output, paddle.Tensor):
        raise DataError(f"diagnose: the network gives a {type(output).__name__}, not logits: leave labels out")
    logits = output.numpy()
    if logits.ndim != 2 or not ((labels >= 0) & (labels < logits.shape[1])).all():
        raise DataError(f"diagnose: labels {labels.min()} to {labels.max()} are not those of outputs {logits.shape}")
    with np.errstate(all="ignore"):  # a network whose statistics are broken answers with what is no number
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return losses, logits.argmax(axis=1) == labels


def _by_batch(model: Any, norms: Mapping[str, nn.Layer]) -> contextlib.AbstractContextManager[None]:
    """Within it the layers that would in training normalise by the batch."""
    return batch_statistics(model, [norm for norm in norms.values() if keeps_statistics(norm)])


def _shifted(model: Any, norms: Mapping[str, nn.Layer], batches: Batches) -> Shifted:
    usual = _passed(model.network, norms, batches)
    with _by_batch(model, norms):
        own = _passed(model.network, norms, batches).inputs
    for name, inputs in own.items():
        if keeps_statistics(norms[name]):
            for tensor, value in zip(_statistics(norms[name]), (inputs.mean, inputs.variance), strict=True):
                tensor.set_value(value.astype(np.float32))
    recalibrated = _passed(model.network, norms, batches)
    return Shifted(usual.inputs, usual.outcome, recalibrated.outcome)


def _layer(
    name: str, norm: nn.Layer, model: Any, tensors: Tensors, training: bool, deployed: _Pass, trained: _Pass
) -> NormLayer:
    own = {key: tensors[tensor_name(name, key)] for key in norm.state_dict()}
    channels, used = len(own["_mean"]), optimizer(model)
    return NormLayer(
        name=name,
        scale=own.get("weight", np.ones(channels, np.float32)),
        shift=own.get("bias", np.zeros(channels, np.float32)),
        running_mean=own["_mean"],
        running_variance=own["_variance"],
        momentum=momentum(norm),
        epsilon=epsilon(norm),
        training=training,
        frozen=not keeps_statistics(norm),
        always_by_batch=batch_statistics_in_evaluation(norm),
        learns=(_learns(norm.weight), _learns(norm.bias)),
        decay=None if used is None else (weight_decay(used, norm.weight), weight_decay(used, norm.bias)),
        deployed=deployed.inputs[name],
        trained=trained.inputs[name],
        positive=deployed.positive.get(name),
    )


def _learns(parameter: Any) -> bool | None:
    return None if parameter is None else not parameter.stop_gradient


@contextlib.contextmanager
def _undisturbed(network: nn.Layer, norms: Mapping[str, nn.Layer]) -> Iterator[None]:
    """Put modes, running statistics and all random states back at the end."""
    held = [(tensor, tensor.numpy().copy()) for norm in norms.values() for tensor in _statistics(norm)]
    try:
        with random_state.undrawn(), modes_kept(network), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="When training, we now always track")  # Paddle, of every layer
            yield
    finally:
        for tensor, value in held:
            tensor.set_value(value)


def _statistics(norm: nn.Layer) -> tuple[Any, Any]:
    state = norm.state_dict()
    return state["_mean"], state["_variance"]


@dataclass
class _Sums:
    """What a layer was given so far: of each image mean and mean square deviation, [C]; of all the range."""

    means: list[np.ndarray] = field(default_factory=list)
    variances: list[np.ndarray] = field(default_factory=list)
    ranges: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    values: int = 1

    def add(self, x: paddle.Tensor, axis: int) -> None:
        """x: [B, ..., C] or [B, C, ...], with the channels at `axis`."""
        x = x.astype("float32")
        places = [each for each in range(1, x.ndim) if each != axis % x.ndim]
        means = x.mean(places, keepdim=True) if places else x
        deviations = x - means
        variances = (deviations * deviations).mean(places) if places else deviations
        channels = x.shape[axis]
        self.values = int(np.prod([x.shape[each] for each in places]))
        self.means.append(means.numpy().reshape(-1, channels).astype(np.float64))
        self.variances.append(variances.numpy().astype(np.float64))
        self.ranges.append((x.min([0, *places]).numpy(), x.max([0, *places]).numpy()))

    def inputs(self) -> Inputs:
        means, variances = np.concatenate(self.means), np.concatenate(self.variances)
        low, high = (np.stack(each).astype(np.float64) for each in zip(*self.ranges, strict=True))
        with np.errstate(all="ignore"):  # infinities have a rule of their own
            between = means.var(axis=0)
            mean = means.mean(axis=0)
            squares = variances + (means - mean) ** 2
            variance, spread = squares.mean(axis=0), squares.var(axis=0)
        return Inputs(mean, variance, between, spread, low.min(axis=0), high.max(axis=0), len(means), self.values)


class _Watch:
    """Hooks on batch norms, and on ReLUs, which tell what the norm right before them has put out."""

    def __init__(self, network: nn.Layer, norms: Mapping[str, nn.Layer]):
        self._network, self._norms = network, norms
        self.sums: dict[str, _Sums] = {}
        self._passed: dict[str, list[np.ndarray]] = {}
        self._latest: tuple[str, Any] = "", None  # the norm that was called last, and its output
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> _Watch:
        for name, norm in self._norms.items():
            self._hooks.callback(norm.register_forward_post_hook(self._norm_hook(name)).remove)
        for layer in self._network.sublayers(include_self=True):
            if isinstance(layer, nn.ReLU | nn.ReLU6):
                self._hooks.callback(layer.register_forward_pre_hook(self._relu_hook).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._latest = "", None
        self._hooks.close()

    def positive(self) -> dict[str, np.ndarray]:
        """The share of each norm's outputs that the ReLU behind it lets through, [C]."""
        return {name: np.mean(shares, axis=0) for name, shares in self._passed.items()}

    def _norm_hook(self, name: str) -> Any:
        def hook(norm: Any, inputs: Any, output: Any) -> None:
            self.sums.setdefault(name, _Sums()).add(inputs[0], channel_axis(norm, inputs[0].ndim))
            self._latest = name, output

        return hook

    def _relu_hook(self, relu: Any, inputs: Any) -> None:
        name, output = self._latest
        if inputs[0] is not output:  # something lies between, such as a residual sum
            return
        axes = all_axes_but_channels(self._norms[name], output.ndim)
        stopped = (output <= 0).astype("float32").mean(axes)  # so that NaN passes, as it does
        self._passed.setdefault(name, []).append(1 - stopped.numpy())
