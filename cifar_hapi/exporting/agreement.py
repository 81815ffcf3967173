"""Whether an exported model says what the run's own network says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from cifar_hapi.errors import CifarHapiError
from cifar_hapi.exporting.network import Answer

TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How an exported model compares with the run's network.

    images: what was compared on. batch_sizes: each image alone, and all together. difference: the largest between two
    logits. largest_logit: of the run's network, by magnitude. same_top1: for how many of `count` images both name the
    same class, at each batch size.
    """

    images: str
    count: int
    batch_sizes: tuple[int, int]
    difference: float
    largest_logit: float
    same_top1: int

    @property
    def relative(self) -> float:
        """The difference as a share of the largest logit, where that is above 1; this must not exceed 0.001."""
        return self.difference / max(1.0, self.largest_logit)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "batch_sizes": list(self.batch_sizes), "relative": self.relative}

    def __str__(self) -> str:
        return (
            f"largest difference of logits {self.difference:.1e} (largest logit {self.largest_logit:.3g}), "
            f"same top-1 for {self.same_top1} of {self.count}"
        )


def compare(own: np.ndarray, answer: Answer, images: np.ndarray, source: str) -> Agreement:
    """own: the logits of the run's network, [N, C]. images: [N, ...], as the exported model takes them.

    Raises CifarHapiError where `Agreement.relative` is above 0.001 or no number.
    """
    count, labels, difference, same = len(images), own.argmax(axis=1), 0.0, np.ones(len(images), bool)
    for size in (1, count):
        logits = np.concatenate(list(_answers(answer, images, size)))
        if logits.shape != own.shape:
            raise CifarHapiError(
                f"not exported: of {count} images it gives {list(logits.shape)}, the run's network {list(own.shape)}"
            )
        difference = float(np.maximum(difference, np.abs(logits - own).max()))  # NaN stays NaN
        same &= logits.argmax(axis=1) == labels
    found = Agreement(source, count, (1, count), difference, float(np.abs(own).max()), int(same.sum()))
    if not found.relative <= TOLERANCE:  # NaN, too
        raise CifarHapiError(
            f"not exported: loaded again, it does not say what the run's network says: {found}; "
            f"allowed are {TOLERANCE} of the largest logit, or {TOLERANCE} where that is below 1"
        )
    return found


def _answers(answer: Answer, images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (answer(np.ascontiguousarray(images[start : start + size])) for start in range(0, len(images), size))
