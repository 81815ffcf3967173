"""What the tests of the server share."""

from __future__ import annotations

import pytest
from asked_server import served
from small_training import small_fit

from cifar_hapi.data.archives import read_cifar


@pytest.fixture(scope="package")
def run(small_cifar, tmp_path_factory):
    """A run that declares averages of weights and views of test images."""
    options = {"averaging.decay": 0.5, "evaluation.views": "flip", "bn_stats": None}
    return small_fit(small_cifar, tmp_path_factory.mktemp("runs") / "tiny", epochs=1, **options)


@pytest.fixture(scope="package")
def images(small_cifar):
    """uint8 [120, 32, 32, 3]."""
    return read_cifar(small_cifar, "cifar10")[1].images


@pytest.fixture(scope="module")
def port(run):
    """That of a server with limits as they are."""
    with served(run, batch=8) as found:
        yield found
