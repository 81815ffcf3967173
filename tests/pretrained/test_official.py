"""Paddle's official weights: found where they are, fetched where they are not, and told of where neither works."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from paddle.utils import download
from paddle.vision.models import resnet

from cifar_hapi.errors import DataError, RecipeError
from cifar_hapi.pretrained import find_weights, official
from cifar_hapi.recipe import NetworkRecipe

CONTENT = b"weights"
IMAGENET = {"stem": "imagenet", "pretrained": "imagenet"}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Empty folders for Paddle's cache and ours; the weights of resnet18 are `CONTENT`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(official, "WEIGHTS_HOME", str(tmp_path / "paddle"))
    known = dataclasses.replace(official.OFFICIAL["resnet18"], md5=hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setitem(official.OFFICIAL, "resnet18", known)
    return {"paddle": tmp_path / "paddle", "ours": tmp_path / "cache" / "cifar-hapi"}


@pytest.fixture
def no_network(monkeypatch):
    def fail(host, port):
        raise OSError(0, "Name or service not known")

    monkeypatch.setattr("cifar_hapi.data.download.socket.getaddrinfo", fail)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", official.OFFICIAL)
def test_they_are_those_of_the_installed_paddle(name):
    wanted = official.OFFICIAL[name]
    assert (wanted.urls, wanted.md5) == ((resnet.model_urls[name][0],), resnet.model_urls[name][1])
    assert wanted.urls[0].endswith(f"/{wanted.file_name}")
    assert official.WEIGHTS_HOME == download.WEIGHTS_HOME


@pytest.mark.parametrize("place", ["paddle", "ours"])
def test_they_are_taken_from_where_they_are(places, place, no_network):
    places[place].mkdir(parents=True)
    file = places[place] / "resnet18.pdparams"
    file.write_bytes(CONTENT)
    assert find_weights(NetworkRecipe(name="resnet18", **IMAGENET)) == file


def test_others_under_their_name_are_not_taken_and_the_error_says_what_to_put_where(places, no_network):
    for folder in places.values():
        folder.mkdir(parents=True)
        (folder / "resnet18.pdparams").write_bytes(b"other")
    with pytest.raises(DataError) as refused:
        find_weights(NetworkRecipe(name="resnet18", **IMAGENET))
    message = str(refused.value)
    wanted = official.OFFICIAL["resnet18"]
    for part in (
        wanted.urls[0],
        "Name or service not known",
        wanted.md5,
        f"into {places['ours']} by hand",
        "--weights",
    ):
        assert part in message
    assert message.startswith("cannot download resnet18.pdparams: ") and "\n" not in message
    assert "--data" not in message


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        ({"name": "resnet20"}, "there are weights for resnet18, resnet34, resnet50, not for resnet20"),
        ({"name": "resnet18", "stem": "cifar"}, "the weights are for network.stem = imagenet; set that, too"),
        ({"name": "resnet18", "stem": None}, "the weights are for network.stem = imagenet; set that, too"),
        ({"name": "resnet18", "width": 32}, "the weights have network.width 64, not 32; leave the key out"),
    ],
)
def test_networks_without_official_weights_are_refused(network, problem):
    with pytest.raises(RecipeError, match=f"^network.pretrained = imagenet: {problem}$"):
        find_weights(NetworkRecipe(**{**IMAGENET, **network}))


def test_all_else_is_a_path(tmp_path):
    assert find_weights(NetworkRecipe(pretrained=str(tmp_path / "w.safetensors"))) == tmp_path / "w.safetensors"
