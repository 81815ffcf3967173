"""Which batch norm can become a part of which convolution or linear layer, and why the others can't."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import nn

from callbacks.paddle_model import global_statistics, norm_layers
from cifar_hapi.batch_norm.calls import Call, Calls, Link, private
from cifar_hapi.batch_norm.formulas import affine
from cifar_hapi.engine import layers
from cifar_hapi.networks.layers import GlobalAveragePool, GlobalMaxPool, MaxPool

CONVOLUTIONS = (nn.Conv1D, nn.Conv2D, nn.Conv3D)
_WEIGHTED = (*CONVOLUTIONS, nn.Linear)
NORMS = (nn.BatchNorm, nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)
_MAXIMA = (nn.MaxPool1D, nn.MaxPool2D, nn.MaxPool3D, MaxPool, GlobalMaxPool)
_ADAPTIVE_MAXIMA = (nn.AdaptiveMaxPool1D, nn.AdaptiveMaxPool2D, nn.AdaptiveMaxPool3D)
_AVERAGES = (nn.AvgPool1D, nn.AvgPool2D, nn.AvgPool3D)
_ADAPTIVE_AVERAGES = (nn.AdaptiveAvgPool1D, nn.AdaptiveAvgPool2D, nn.AdaptiveAvgPool3D, GlobalAveragePool)
_POOLS = (*_MAXIMA, *_ADAPTIVE_MAXIMA, *_AVERAGES, *_ADAPTIVE_AVERAGES)

_NOTHING_BEFORE = "no convolution or linear layer gives it its input directly"


@dataclass(frozen=True, eq=False)
class Fold:
    """`norm` becomes a part of `layer`, whose result it takes, or, if `ahead`, which takes its result."""

    norm: nn.Layer
    layer: nn.Layer
    ahead: bool
    links: tuple[Link, ...]


Plan = dict[str, Fold | str]  # by the norm's name: what can be done, or why nothing can


def plan(network: nn.Layer, x: paddle.Tensor, calls: Calls) -> Plan:
    """What to do with each batch norm of `network`, in the order of the calls, which `x` has given."""
    found = _Planner(network, calls).plan()
    folds = parts(found)[0]
    if private(network, x, [link for fold in folds.values() for link in fold.links], calls.outputs):
        return found
    for name, fold in folds.items():
        if not private(network, x, fold.links, calls.outputs):
            found[name] = "others read what is between it and its convolution, too"
    return found


def watched(network: nn.Layer) -> list[nn.Layer]:
    """The layers that matter to a plan, each once."""
    kinds = (*_WEIGHTED, *NORMS, *_POOLS)
    return [layer for layer in network.sublayers(include_self=True) if isinstance(layer, kinds)]


def factor_and_offset(norm: nn.Layer) -> tuple[np.ndarray, np.ndarray]:
    """What `norm` does in evaluation mode, float64 [C]."""
    mean, variance = (layers.parameter(norm, name).numpy().astype(np.float64) for name in ("_mean", "_variance"))
    scale, shift = (layers.parameter(norm, name) for name in ("weight", "bias"))
    return affine(
        mean,
        variance,
        np.ones_like(mean) if scale is None else scale.numpy().astype(np.float64),
        np.zeros_like(mean) if shift is None else shift.numpy().astype(np.float64),
        layers.epsilon(norm),
    )


class _Planner:
    """Goes through the norms in the order in which they are called."""

    def __init__(self, network: nn.Layer, calls: Calls):
        self._calls = calls
        self._names = {norm: name for name, norm in norm_layers(network).items()}
        self._folded: set[nn.Layer] = set()
        every = network.sublayers(include_self=True)
        self._owners = Counter(id(tensor) for layer in every for tensor in layer.parameters(include_sublayers=False))

    def plan(self) -> Plan:
        order = [call.layer for call in self._calls.calls if call.layer in self._names]
        found: Plan = {}
        for norm in dict.fromkeys([*order, *self._names]):
            found[self._names[norm]] = result = self._of(norm)
            if isinstance(result, Fold) and not result.ahead:
                self._folded.add(norm)
        return found

    def _of(self, norm: nn.Layer) -> Fold | str:
        if obstacle := self._obstacle(norm):
            return obstacle
        (call,) = self._calls.of(norm)
        before = self._into_the_one_before(call)
        if isinstance(before, Fold):
            return before
        after = self._into_the_one_after(call)
        return after if isinstance(after, Fold) or (after and before == _NOTHING_BEFORE) else before

    def _obstacle(self, norm: nn.Layer) -> str:
        times = len(self._calls.of(norm))
        if times != 1:
            return f"it is called {times} times" if times else "the forward pass does not reach it"
        if type(norm) not in NORMS or _altered(norm):
            return "it has hooks, or a forward of its own"
        if layers.built_in_activation(norm):
            return "an activation is a part of it"
        if global_statistics(norm) is False and not isinstance(norm, nn.BatchNorm):
            return "it normalises by the batch in evaluation, too (use_global_stats=False)"
        return ""

    def _into_the_one_before(self, norm: Call) -> Fold | str:
        links: list[Link] = []
        call = norm
        while giver := self._calls.giver(call):
            links.append((giver.layer, call.layer))
            if obstacle := self._obstacle_in(giver, norm):
                return obstacle
            if type(giver.layer) in _WEIGHTED:
                return Fold(norm.layer, giver.layer, ahead=False, links=tuple(links))
            call = giver
        return _NOTHING_BEFORE

    def _obstacle_in(self, giver: Call, norm: Call) -> str:
        """Why a norm's factor and offset can't be taken through a layer before it, or into it."""
        if len(self._calls.of(giver.layer)) > 1 or _altered(giver.layer):
            return "the layer before it is called several times, or has hooks or a forward of its own"
        if type(giver.layer) in _WEIGHTED:
            return self._obstacle_in_weights(giver.layer, norm)
        if type(giver.layer) in _POOLS:
            return _obstacle_in_pool(giver.layer, factor_and_offset(norm.layer)[0])
        return "" if giver.layer in self._folded else _NOTHING_BEFORE

    def _into_the_one_after(self, norm: Call) -> Fold | str:
        """A fold, why not, or "" where there is no such layer."""
        takers = self._calls.takers(norm)
        if len(takers) != 1 or type(takers[0].layer) not in _WEIGHTED:
            return ""
        layer = takers[0].layer
        if len(self._calls.of(layer)) > 1 or _altered(layer):
            return "the layer after it is called several times, or has hooks or a forward of its own"
        if obstacle := self._obstacle_in_weights(layer, norm):
            return obstacle
        if isinstance(layer, CONVOLUTIONS) and layers.pads_with_zeros(layer) and factor_and_offset(norm.layer)[1].any():
            return "the convolution after it pads with zeros, which are not what its shift makes of them"
        return Fold(norm.layer, layer, ahead=True, links=((norm.layer, layer),))

    def _obstacle_in_weights(self, layer: nn.Layer, norm: Call) -> str:
        tensors = [layers.parameter(layer, name) for name in ("weight", "bias")]
        if tensors[0] is None or any(self._owners[id(tensor)] > 1 for tensor in tensors if tensor is not None):
            return "the layer beside it shares its weights with another, or something else computes them"
        flat = norm.source[0].ndim == 2
        last = True if isinstance(layer, nn.Linear) else layers.channels_last(layer)
        return "" if flat or layers.channels_last(norm.layer) == last else "its channels are another axis"


def _altered(layer: nn.Layer) -> bool:
    return layers.has_hooks(layer) or "forward" in layer.__dict__


def _obstacle_in_pool(pool: nn.Layer, factor: np.ndarray) -> str:
    """A maximum takes non-negative factors, an average any; where it counts zeros around the map, none."""
    if type(pool) in (*_MAXIMA, *_ADAPTIVE_MAXIMA):
        negative = int((factor < 0).sum())
        return f"a max pool is before it, and {negative} of its {factor.size} scales are negative" if negative else ""
    if type(pool) in _AVERAGES:
        plain = not np.any(pool.padding) and not pool.ceil_mode
        if getattr(pool, "divisor", None) is not None or not (pool.exclusive or plain):
            return "an average pool before it counts zeros around the map, or has a divisor of its own"
    return ""


def parts(found: Plan) -> tuple[dict[str, Fold], dict[str, str]]:
    """The folds, and the reasons for which the other norms stay, by name."""
    folds = {name: each for name, each in found.items() if isinstance(each, Fold)}
    return folds, {name: each for name, each in found.items() if isinstance(each, str)}
