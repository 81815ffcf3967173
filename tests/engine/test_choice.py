"""Which engine is taken, and what is said of it, on machines of every kind."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import nn

from cifar_hapi.engine import choice, onednn, onednn_availability, self_check, use_engine, winograd
from cifar_hapi.engine.execution import accelerated
from cifar_hapi.errors import RecipeError

needs_onednn = pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")


def network():
    return nn.Sequential(nn.Conv2D(3, 4, 3))


@pytest.fixture
def fresh_library():
    """The library as if it had not been loaded yet, before and after the test."""
    onednn.library.cache_clear()
    yield
    onednn.library.cache_clear()


@needs_onednn
@pytest.mark.parametrize(
    ("allowed", "native", "used"),
    [("float32", True, "float32"), ("bfloat16", True, "bfloat16"), ("bfloat16", False, "float32")],
)
def test_auto_takes_the_lowest_precision_that_is_allowed_and_native(monkeypatch, allowed, native, used):
    monkeypatch.setattr(onednn, "native_bfloat16", lambda: native)
    monkeypatch.setattr(choice, "disagreement", lambda dtype: None)  # where bfloat16 is not native, it may disagree
    net = network()
    found = use_engine(net, "auto", allowed, "cpu")
    assert (found.engine, found.precision) == ("onednn", used) and found.why.startswith("oneDNN 3.")
    assert accelerated(net)


@needs_onednn
@pytest.mark.parametrize(
    ("engine", "allowed", "device", "reason"),
    [
        ("auto", "bfloat16", "cpu", "this CPU does not compute bfloat16 natively"),
        ("onednn", "float16", "cpu", "oneDNN is used in float32 and bfloat16, not in float16"),
        ("native", "bfloat16", "cpu", "Paddle's own kernels compute in float32 on a CPU"),
        ("native", "float16", "cpu", "Paddle's own kernels compute in float32 on a CPU"),
        ("auto", "float32", "cpu", None),
        ("native", "float32", "cpu", None),
        ("auto", "bfloat16", "gpu:0", None),  # where Paddle casts
    ],
)
def test_a_lower_precision_that_is_allowed_and_not_used_has_a_reason(monkeypatch, engine, allowed, device, reason):
    monkeypatch.setattr(onednn, "native_bfloat16", lambda: False)
    found = use_engine(network(), engine, allowed, device)
    assert found.precision == "float32" and found.why.partition("; ")[2] == (reason or "")


@needs_onednn
def test_what_was_not_compiled_is_told(monkeypatch):
    monkeypatch.setattr(winograd, "available", lambda: False)
    assert "there was no C compiler" in use_engine(network(), "auto", "float32", "cpu").why


@needs_onednn
def test_bfloat16_that_fails_the_self_check_is_the_reason_for_float32(monkeypatch):
    monkeypatch.setattr(onednn, "native_bfloat16", lambda: True)
    monkeypatch.setattr(choice, "disagreement", lambda dtype: "a wrong sum" if dtype == "bfloat16" else None)
    found = use_engine(network(), "auto", "bfloat16", "cpu")
    assert (found.engine, found.precision) == ("onednn", "float32")
    assert found.why.endswith("; bfloat16 failed the self-check: a wrong sum")


def test_native_is_native():
    net = network()
    assert use_engine(net, "native", "bfloat16", "cpu").engine == "native" and not accelerated(net)


def no_wheel(monkeypatch):  # macOS, Windows, ARM, musl: no libdnnl.so.3 beside Paddle
    monkeypatch.setattr(onednn, "library_path", lambda: None)


def other_major(monkeypatch):
    version = SimpleNamespace(contents=SimpleNamespace(major=4, minor=0, patch=0))
    real = onednn.ctypes.CDLL

    def load(path):
        loaded = real(path)
        return loaded if "dnnl" not in str(path) else _Other(loaded, version)

    monkeypatch.setattr(onednn.ctypes, "CDLL", load)


class _Other:
    """A library with another version, or without a function."""

    def __init__(self, library, version=None, without=None):
        self._library, self._version, self._without = library, version, without

    def __getattr__(self, name):
        if name == self._without:
            raise AttributeError(f"undefined symbol: {name}")
        if name == "dnnl_version" and self._version:
            return lambda: self._version
        return getattr(self._library, name)


def missing_function(monkeypatch):
    real = onednn.ctypes.CDLL
    monkeypatch.setattr(onednn.ctypes, "CDLL", lambda path: _Other(real(path), without="dnnl_primitive_execute"))


def damaged(monkeypatch):
    def load(path):
        raise OSError("file too short")

    monkeypatch.setattr(onednn.ctypes, "CDLL", load)


def disagrees(monkeypatch):
    monkeypatch.setattr(choice, "disagreement", lambda dtype: "the training output differs from Paddle's by 12.0%")


@needs_onednn
@pytest.mark.usefixtures("fresh_library")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (no_wheel, "carries no libdnnl.so.3"),
        (other_major, "is oneDNN 4; the engine needs 3"),
        (missing_function, "dnnl_primitive_execute"),
        (damaged, "file too short"),
        (disagrees, "failed the self-check: the training output differs"),
    ],
)
def test_a_machine_without_a_usable_onednn_runs_natively_and_says_why(monkeypatch, make, reason):
    make(monkeypatch)
    net = network()
    found = use_engine(net, "auto", "bfloat16", "cpu")
    assert (found.engine, found.precision) == ("native", "float32") and reason in found.why
    assert not accelerated(net)
    assert net(paddle.zeros([1, 3, 4, 4])).shape == [1, 4, 2, 2]
    with pytest.raises(RecipeError, match="engine = 'onednn': ") as caught:
        use_engine(net, "onednn", "float32", "cpu")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_a_gpu_keeps_paddles_kernels():
    assert use_engine(network(), "auto", "bfloat16", "gpu:0").why == "it runs on a CPU, not on gpu:0"
    with pytest.raises(RecipeError, match="not on gpu:0"):
        use_engine(network(), "onednn", "float32", "gpu:0")


@needs_onednn
def test_a_network_without_any_layer_that_is_known():
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    assert "no layer of this network" in use_engine(layers, "auto", "float32", "cpu").why
    with pytest.raises(RecipeError, match="no layer of this network"):
        use_engine(layers, "onednn", "float32", "cpu")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: paddle.Model(network()), "a Model is no paddle.nn.Layer; give it the network: model.network"),
        (lambda: "resnet18", "a str is no paddle.nn.Layer; give it the network"),
        (lambda: nn.Conv2D, "a type is no paddle.nn.Layer; give it the network"),
    ],
)
def test_what_is_no_network_cannot_be_accelerated(given, message):
    with pytest.raises(TypeError) as caught:
        choice.accelerate(given())
    assert str(caught.value) == f"accelerate: {message}"


@needs_onednn
def test_the_self_check_finds_a_wrong_kernel(monkeypatch):
    real = onednn.Call.run
    monkeypatch.setattr(onednn.Call, "run", lambda self: real(self) if "bnorm" not in self.implementation else None)
    assert "differs from Paddle's" in self_check.disagreement.__wrapped__("float32")


@needs_onednn
def test_the_self_check_leaves_random_states_and_names_alone():
    def next_ones():
        return paddle.rand([3]).numpy(), np.random.rand(3), random.random(), paddle.utils.unique_name.generate("conv2d")

    found = []
    for check in (False, True):
        paddle.seed(1)
        np.random.seed(1)
        random.seed(1)
        with paddle.utils.unique_name.guard():
            if check:
                assert self_check.disagreement.__wrapped__("float32") is None
            found.append(next_ones())
    for without, after in zip(*found, strict=True):
        np.testing.assert_array_equal(without, after)


@needs_onednn
def test_the_latest_choice_counts():
    net, x = network(), paddle.ones([1, 3, 4, 4])
    native = net(x).numpy()
    for engine, precision in [("auto", "float32"), ("onednn", "bfloat16"), ("auto", "float32"), ("native", "float32")]:
        found = use_engine(net, engine, precision, "cpu")
        assert found.engine == ("native" if engine == "native" else "onednn") and accelerated(net) == (
            engine != "native"
        )
        np.testing.assert_allclose(net(x).numpy(), native, atol=0.05 if found.precision == "bfloat16" else 1e-5)


@needs_onednn
@pytest.mark.parametrize(("tiles", "end"), [(False, ""), (True, " with AMX")])
def test_availability_names_the_version_and_amx(tiles, end, monkeypatch):
    monkeypatch.setattr(onednn, "multiplies_tiles", lambda: tiles)
    found = onednn_availability()
    assert found.usable and found.why == f"oneDNN {onednn.version()}{end}"
