"""What a network has said of each image of a test set, kept with the evaluation that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paddle.metric import Metric
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from callbacks.durable import write_file
from cifar_hapi.errors import RunError
from cifar_hapi.metrics import softmax

MOST = 3  # classes that are kept of each image
_LARGEST = 2**30  # bytes of a file that is read; those of 10,000 images take 320,000


@dataclass(frozen=True, eq=False)
class Answers:
    """Of N images in the order of their set: the likeliest classes, and how likely the network thinks the true one is.

    labels: int32 [N]. classes: int32 [N, k], the likeliest first; k is 3, or how many classes there are.
    probabilities: float32 [N, k], of these. of_label: float32 [N].
    """

    labels: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    of_label: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> np.ndarray:
        """Which images were classified as what they are, bool [N]."""
        return np.asarray(self.classes[:, 0] == self.labels)

    def surest_mistakes(self, most: int) -> np.ndarray:
        """The places of the mistakes that the network was surest of, the surest first; int64, at most `most`."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.probabilities[wrong, 0], kind="stable")][:most]


class AnswerMetric(Metric):
    """Keeps what it is shown; `answers` are those of all batches since the last reset. Accumulates to their number."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self._batches: list[tuple[np.ndarray, ...]] = []
        self._count = 0

    def update(self, logits: np.ndarray, labels: np.ndarray) -> int:
        """logits: float [N, C]. labels: int [N] or [N, 1]."""
        probabilities, labels = softmax(logits), labels.reshape(-1)
        classes = np.argsort(-logits, axis=1, kind="stable")[:, :MOST]  # of equals the lower, as argmax has it
        highest = np.take_along_axis(probabilities, classes, axis=1)
        self._batches.append((labels, classes, highest, probabilities[np.arange(len(labels)), labels]))
        self._count += len(labels)
        return self._count

    def accumulate(self) -> int:
        return self._count

    def name(self) -> str:
        return "answers"

    @property
    def answers(self) -> Answers:
        parts = [np.concatenate(part) for part in zip(*self._batches, strict=True)]
        kinds = (np.int32, np.int32, np.float32, np.float32)
        return Answers(*(part.astype(kind) for part, kind in zip(parts, kinds, strict=True)))


def write_answers(path: Path, answers: Answers, *, images: str, evaluated: str) -> None:
    """Write to `path`. images: the SHA-256 of their set. evaluated: when, which says of which evaluation they are."""
    write_file(path, save(vars(answers), {"images": images, "evaluated": evaluated}))


def read_answers(path: Path, evaluated: str, num_classes: int) -> tuple[Answers, str] | None:
    """The answers at `path` and the SHA-256 of their images; None where there are none of the evaluation of that time.

    Raises RunError, naming the file, where it holds anything else than answers over so many classes.
    """
    if not path.exists():
        return None
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"has more than {_LARGEST:,} bytes")
        with safe_open(path, framework="numpy") as file:
            about, found = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.get("evaluated") != evaluated:
            return None
        return _checked(found, num_classes), str(about.get("images", ""))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise RunError(f"{path}: holds no answers: {error}; remove it, and evaluate again") from None


def _checked(found: dict[str, Any], num_classes: int) -> Answers:
    """Raises ValueError for anything that `AnswerMetric` would not give."""
    count, kept = len(found.get("labels", ())), min(MOST, num_classes)
    shapes = {"labels": (count,), "classes": (count, kept), "probabilities": (count, kept), "of_label": (count,)}
    if {name: values.shape for name, values in found.items()} != shapes:
        raise ValueError(f"expected the shapes {shapes}")
    for name in ("labels", "classes"):
        values = found[name]
        if values.dtype != np.int32 or ((values < 0) | (values >= num_classes)).any():
            raise ValueError(f"{name} are not those of {num_classes} classes")
    for name in ("probabilities", "of_label"):
        values = found[name]
        if values.dtype != np.float32 or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} are no probabilities")
    return Answers(**found)
