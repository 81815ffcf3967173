"""Whose names are whose: written out here, so that a change of ours is noticed."""

from __future__ import annotations

import paddle
import pytest

from cifar_hapi.networks import build_network
from cifar_hapi.pretrained.names import NAMINGS, naming_of, torch_name, vision_name


def torchvisions_resnet18():
    """The names in the state dict of torchvision's resnet18 that its paper has, without `num_batches_tracked`."""
    norm = ("weight", "bias", "running_mean", "running_var")
    names = ["conv1.weight", *(f"bn1.{each}" for each in norm), "fc.weight", "fc.bias"]
    for block in (f"layer{stage}.{number}" for stage in (1, 2, 3, 4) for number in (0, 1)):
        for number in (1, 2):
            names += [f"{block}.conv{number}.weight", *(f"{block}.bn{number}.{each}" for each in norm)]
    for stage in (2, 3, 4):
        block = f"layer{stage}.0.downsample"
        names += [f"{block}.0.weight", *(f"{block}.1.{each}" for each in norm)]
    return names


def test_our_resnet18_has_the_tensors_of_torchvisions():
    ours = build_network("resnet18", width=2, stem="imagenet").state_dict()
    assert sorted(map(torch_name, ours)) == sorted(torchvisions_resnet18())


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_our_resnets_have_the_tensors_of_paddle_visions(name):
    ours = build_network(name, width=2, stem="imagenet").state_dict()
    theirs = getattr(paddle.vision.models, name)().state_dict()
    assert sorted(map(vision_name, ours)) == sorted(theirs)


@pytest.mark.parametrize("title", ["cifar-hapi", "paddle.vision", "torchvision"])
def test_who_named_them_is_told_by_their_names(title):
    ours = list(build_network("resnet18", width=2, stem="imagenet").state_dict())
    naming = next(each for each in NAMINGS if each.title == title)
    theirs = [naming.name(name) for name in ours]
    assert naming_of([*theirs, "more"], ours) is naming
    assert naming_of(theirs[3:9], ours) is naming
