"""Networks put together at random from all that the engine knows: every way through them is Paddle's."""

from __future__ import annotations

from unittest import mock

import numpy as np
import paddle
import pytest
from engine_comparison import assert_agree, both, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paddle import nn

from cifar_hapi.engine import onednn
from cifar_hapi.engine.memory import layout
from cifar_hapi.networks.layers import GlobalAveragePool, GlobalMaxPool, MaxPool, PadShortcut, ResidualJoin

pytestmark = pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")
KINDS = ["conv", "conv", "norm", "norm", "relu", "relu", "activation", "pool", "add", "add", "join", "pad"]
MODES = ["training", "evaluation", "evaluation with gradients", "training without gradients", "frozen statistics"]


class Drawn(nn.Layer):
    """A network whose steps were drawn: kind, layer, and the numbers of the values that it is called with."""

    def __init__(self, draw, channels, data_format):
        super().__init__()
        self.steps, self.layers = [], nn.LayerList()
        self._form = {"data_format": data_format}
        shapes, unread = [(channels, draw(st.integers(6, 11)), draw(st.integers(6, 11)))], {0}
        self.input_shape = shapes[0]
        for _ in range(draw(st.integers(2, 9))):
            kind, source = (
                draw(st.sampled_from(KINDS)),
                draw(st.sampled_from([len(shapes) - 1] * 3 + [*range(len(shapes))])),
            )
            self._step(draw, kind, source, shapes, unread)
        while len(unread) > 1:  # all ways meet at the end
            self._meet(*sorted(unread)[:2], shapes, unread)
        if not any(isinstance(layer, nn.Conv2D | nn.BatchNorm2D) for layer in self.layers):
            self._append(
                "call",
                nn.BatchNorm2D(shapes[-1][0], epsilon=0.1, **self._form),
                (len(shapes) - 1,),
                shapes[-1],
                shapes,
                unread,
            )
        ending = draw(st.sampled_from([None, GlobalAveragePool, GlobalMaxPool]))
        self.ending = ending(data_format) if ending else None
        self.head = nn.Linear(shapes[-1][0], 3) if ending else None

    def forward(self, x):
        values = [x]
        for kind, layer, sources in self.steps:
            read = [values[source] for source in sources]
            values.append(read[0] + read[1] if kind == "add" else self.layers[layer](*read))
        return self.head(self.ending(values[-1])) if self.head else values[-1]

    def _step(self, draw, kind, source, shapes, unread):
        channels, height, width = shapes[source]
        if kind == "conv":
            groups = draw(st.sampled_from([1, 1, 1, channels]))
            out = groups * draw(st.sampled_from([1, 2])) if groups > 1 else draw(st.sampled_from([3, 8, 16, 17, 32]))
            kernel, stride, bias = (
                draw(st.sampled_from([1, 2, 3])),
                draw(st.sampled_from([1, 1, 2])),
                draw(st.booleans()),
            )
            layer = nn.Conv2D(
                channels,
                out,
                kernel,
                stride,
                kernel // 2,
                groups=groups,
                bias_attr=None if bias else False,
                **self._form,
            )
            sides = [(side + 2 * (kernel // 2) - kernel) // stride + 1 for side in (height, width)]
            self._append("call", layer, (source,), (out, *sides), shapes, unread)
        elif kind == "norm":
            self._append(
                "call", nn.BatchNorm2D(channels, epsilon=0.1, **self._form), (source,), shapes[source], shapes, unread
            )
        elif kind == "relu":
            self._append("call", nn.ReLU(), (source,), shapes[source], shapes, unread)
        elif kind == "activation":
            layer = draw(st.sampled_from([nn.GELU(), nn.GELU(approximate=True), nn.Silu()]))
            self._append("call", layer, (source,), shapes[source], shapes, unread)
        elif kind == "pool" and min(height, width) >= 6:
            layer = draw(st.sampled_from([MaxPool(2, **self._form), nn.AvgPool2D(2, **self._form)]))
            self._append("call", layer, (source,), (channels, height // 2, width // 2), shapes, unread)
        elif kind == "pad" and min(height, width) >= 6:
            stride, new = draw(st.sampled_from([1, 2])), draw(st.sampled_from([0, 1, 16]))
            layer = PadShortcut(channels, channels + new, stride, **self._form)
            self._append(
                "call", layer, (source,), (channels + new, -(-height // stride), -(-width // stride)), shapes, unread
            )
        elif kind in ("add", "join"):
            other = draw(st.sampled_from([place for place, shape in enumerate(shapes) if shape == shapes[source]]))
            layer = ResidualJoin(**self._form) if kind == "join" else None
            self._append("call" if layer else "add", layer, (source, other), shapes[source], shapes, unread)

    def _meet(self, one, other, shapes, unread):
        """Convolutions that make two values alike, and their sum."""
        sides = [min(pair) for pair in zip(shapes[one][1:], shapes[other][1:], strict=True)]
        for source in (one, other):
            kernel = [side - wanted + 1 for side, wanted in zip(shapes[source][1:], sides, strict=True)]
            layer = nn.Conv2D(shapes[source][0], 4, kernel, **self._form)
            self._append("call", layer, (source,), (4, *sides), shapes, unread)
        last = len(shapes) - 1
        self._append("add", None, (last - 1, last), shapes[-1], shapes, unread)

    def _append(self, kind, layer, sources, shape, shapes, unread):
        self.steps.append((kind, len(self.layers), sources))
        if layer is not None:
            self.layers.append(layer)
        unread.difference_update(sources)
        unread.add(len(shapes))
        shapes.append(shape)


@st.composite
def networks(draw):
    paddle.seed(draw(st.integers(0, 999)))
    data_format = draw(st.sampled_from(["NCHW", "NHWC"]))
    network = Drawn(draw, draw(st.sampled_from([3, 5, 16, 32])), data_format)
    for layer in network.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer.weight.set_value(paddle.rand(layer.weight.shape) + 0.5)
            layer.bias.set_value(paddle.randn(layer.bias.shape))
            layer._mean.set_value(paddle.randn(layer.bias.shape) / 4)
            layer._variance.set_value(paddle.rand(layer.bias.shape) + 0.5)
    channels, height, width = network.input_shape
    batch = draw(st.integers(1, 3))
    shape = (batch, channels, height, width) if data_format == "NCHW" else (batch, height, width, channels)
    x = np.random.default_rng(draw(st.integers(0, 9))).standard_normal(shape).astype("float32")
    return network, x


def set_mode(network, mode):
    network.train() if mode.startswith("training") or mode == "frozen statistics" else network.eval()
    for layer in network.sublayers():
        if isinstance(layer, nn.BatchNorm2D) and mode == "frozen statistics":
            layer._use_global_stats = True


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    drawn=networks(),
    mode=st.sampled_from(MODES),
    input_gradient=st.booleans(),
    frozen=st.sets(st.integers(0, 30)),
    blocks=st.booleans(),
)
def test_networks_at_random(drawn, mode, input_gradient, frozen, blocks):
    network, x = drawn
    set_mode(network, mode)
    for place, layer in enumerate(network.layers):
        for parameter in layer.parameters():  # together: Paddle's batch norm needs both gradients or none
            parameter.stop_gradient = parameter.stop_gradient or place in frozen

    def use(layer):
        with paddle.set_grad_enabled(mode not in ("evaluation", "training without gradients")):
            outcome(layer, x[::-1] * 2, input_gradient)  # a second pass finds what the first has left in memory
            return outcome(layer, x, input_gradient)

    with mock.patch("cifar_hapi.engine.program.layout", _blocks if blocks else layout):
        native, fast = both(network, use)
    assert_agree(fast, native, 1e-3)


def _blocks(shape, dtype):
    """In blocks wherever that is possible, which only large maps in bfloat16 are otherwise."""
    return "nhwc" if shape[1] % 16 else "blocked"
