"""From a recipe or a run to a network that runs: on which engine, and what is said of it."""

from __future__ import annotations

import paddle
import pytest

from cifar_hapi.engine import onednn
from cifar_hapi.engine.execution import accelerated
from cifar_hapi.loading import use_declared_engine
from cifar_hapi.recipe import Recipe


@pytest.mark.parametrize(
    ("capability", "precision", "reason"),
    [((8, 0), "bfloat16", ""), ((7, 5), "float32", "this GPU does not compute in bfloat16")],
)
def test_on_a_gpu_the_precision_is_that_of_its_casts(monkeypatch, capability, precision, reason):
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda device: capability)
    recipe = Recipe.load("quick", {"precision": "bfloat16"})
    found = use_declared_engine(paddle.nn.Conv2D(3, 4, 3), recipe, "gpu:0")
    assert (found.engine, found.precision, found.why.partition("; ")[2]) == ("native", precision, reason)


@pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")
def test_on_a_cpu_the_engine_is_that_of_the_recipe():
    network = paddle.nn.Conv2D(3, 4, 3)
    for engine in ("onednn", "native"):
        recipe = Recipe.load("quick", {"engine": engine, "precision": "float32"})
        assert use_declared_engine(network, recipe, "cpu").engine == engine and accelerated(network) == (
            engine == "onednn"
        )
