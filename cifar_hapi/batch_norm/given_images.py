"""Images as users have them: an array, a pair with labels, a `paddle.io.Dataset`, or batches as for `fit`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from callbacks.network_input import UnfitInput
from cifar_hapi.errors import DataError

FORMS = "an array, a pair (images, labels), a paddle.io.Dataset, or batches as for fit"


def batches_of(given: Any, batch_size: int, what: str, seed: int | None = None) -> Iterable[Any]:
    """Batches of what is `given`, inputs first, of `batch_size` at most and none of them a small rest.

    Batches come as they are. All else is shuffled by `seed`, if there is one: images that are sorted by class would
    make odd batches. A pair is a tuple of two arrays, or a list of two whose second has one number an image.

    what: the function and its argument, for errors. Raises TypeError for what is none of these.
    """
    arrays = _arrays(given)
    if arrays is not None:
        return _cut(arrays, batch_size, what, seed)
    if isinstance(given, paddle.io.IterableDataset):  # has no length, and an order of its own
        return paddle.io.DataLoader(given, batch_size=batch_size)  # type: ignore[no-any-return]
    if isinstance(given, paddle.io.Dataset):
        places = _places(len(given), batch_size, seed)  # type: ignore[arg-type]
        return paddle.io.DataLoader(given, batch_sampler=[each.tolist() for each in places])  # type: ignore[no-any-return]
    if isinstance(given, str | bytes | Path | Mapping) or not hasattr(given, "__iter__"):
        raise TypeError(f"{what}: of type {type(given).__name__}: expected {FORMS}")
    return given  # type: ignore[no-any-return]


@contextlib.contextmanager
def refusals_told(what: str) -> Iterator[None]:
    """Within it images that the network does not take are a DataError about `what`."""
    try:
        yield
    except UnfitInput as error:
        raise DataError(f"{what}: {error}") from error


def class_numbers(labels: Any, what: str) -> np.ndarray:
    """Labels as an array [N]. Raises DataError unless they are integers."""
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise DataError(f"{what}: labels are {array.dtype}: expected integers, the classes counted from 0")
    return array.reshape(-1)


def _arrays(given: Any) -> Sequence[np.ndarray] | None:
    """The array, or the two of a pair; None for what is neither."""
    if hasattr(given, "shape"):
        return (np.asarray(given),)
    if not isinstance(given, tuple | list) or len(given) != 2 or not all(hasattr(each, "shape") for each in given):
        return None
    images, labels = (np.asarray(each) for each in given)
    return (images, labels) if isinstance(given, tuple) or labels.shape[:1] == (labels.size,) else None


def _cut(arrays: Sequence[np.ndarray], batch_size: int, what: str, seed: int | None) -> Iterator[list[np.ndarray]]:
    images = arrays[0]
    if not images.ndim or not len(images) or images.dtype.kind != "f":
        found = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"{what}: {found}: expected floats [N, ...], normalised as in training")
    if arrays[-1].shape[:1] != images.shape[:1]:
        raise DataError(f"{what}: {len(images)} images have {len(np.atleast_1d(arrays[-1]))} labels")
    places = _places(len(images), batch_size, seed)
    return ([images[place].astype(np.float32), *(each[place] for each in arrays[1:])] for place in places)


def _places(count: int, batch_size: int, seed: int | None) -> list[np.ndarray]:
    """Which of `count` images are in each batch."""
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    return np.array_split(order, math.ceil(count / batch_size)) if count else []
