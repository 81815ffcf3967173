"""The images that benchmarks train on: real ones where they are, else generated ones, never noise or zeros."""

from __future__ import annotations

import numpy as np

from cifar_hapi.data.archives import find_cifar, read_cifar
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.synthetic import CLASS_NAMES, draw
from cifar_hapi.runtime import data_folders


def labelled_images(count: int) -> tuple[str, ImageSet]:
    """The first `count` test images of CIFAR-10, of $CIFAR_HAPI_DATA or the user's cache, else of the generated set.

    Returns where they are from, and the images.
    """
    place = next((found for folder in data_folders(None) if (found := find_cifar(folder, "cifar10"))), None)
    if place is None:
        images, labels = draw("test", count)
        return "synthetic", ImageSet(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels, CLASS_NAMES)
    return "cifar10", read_cifar(place, "cifar10")[1].take(np.arange(count))
