"""What is measured of a classifier, as `paddle.metric.Metric`s that count over a whole set."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from paddle.metric import Metric


class TopK(Metric):
    """The share of images whose label is among the k highest logits, for each k; `acc` for k = 1, else `topk`.

    Ties go to the lower class, as in argmax. A row with a NaN is wrong.
    """

    def __init__(self, k: tuple[int, ...] = (1,)):
        super().__init__()
        self.k = k
        self.reset()

    def reset(self) -> None:
        self._correct, self._count = np.zeros(len(self.k), dtype=np.int64), 0

    def update(self, logits: np.ndarray, labels: np.ndarray) -> list[float]:
        """logits: float [N, C]. labels: int [N] or [N, 1]."""
        ranks = label_ranks(logits, labels.reshape(-1))
        self._correct += (ranks[:, None] < np.array(self.k)).sum(axis=0)
        self._count += len(ranks)
        return self.accumulate()

    def accumulate(self) -> list[float]:
        return [float(correct) / max(self._count, 1) for correct in self._correct]

    def name(self) -> list[str]:
        return ["acc" if k == 1 else f"top{k}" for k in self.k]


class ConfusionMatrix(Metric):
    """Counts, int64 [C, C]: row = label, column = the class with the highest logit."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        self._counts = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)

    def update(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """logits: float [N, C]. labels: int [N] or [N, 1]."""
        np.add.at(self._counts, (labels.reshape(-1), logits.argmax(axis=1)), 1)
        return self._counts

    def accumulate(self) -> np.ndarray:
        return self._counts.copy()

    def name(self) -> str:
        return "confusion"


class Calibration(Metric):
    """Whether the predicted class's probability can be believed: reliability bins and expected calibration error.

    Guo et al. 2017 (arXiv 1706.04599), equal-width bins; accumulates to
    `{"ece": float, "bins": [{"from", "to", "count", "confidence", "accuracy"}, ...]}`; an empty bin has neither.
    """

    def __init__(self, bins: int = 15):
        super().__init__()
        self.bins = bins
        self.reset()

    def reset(self) -> None:
        self._count, self._confidence, self._correct = (np.zeros(self.bins) for _ in range(3))

    def update(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """logits: float [N, C]. labels: int [N] or [N, 1]."""
        probabilities = softmax(logits)
        confidence = probabilities.max(axis=1)
        # Bin i holds confidences in (i/bins, (i+1)/bins].
        place = np.clip(np.ceil(confidence * self.bins).astype(int) - 1, 0, self.bins - 1)
        self._count += np.bincount(place, minlength=self.bins)
        self._confidence += np.bincount(place, weights=confidence, minlength=self.bins)
        self._correct += np.bincount(place, weights=logits.argmax(axis=1) == labels.reshape(-1), minlength=self.bins)
        return self._error()

    def accumulate(self) -> dict[str, Any]:
        edges = np.linspace(0, 1, self.bins + 1)
        bins = [
            {"from": float(low), "to": float(high), "count": int(count)}
            | ({"confidence": float(confidence / count), "accuracy": float(correct / count)} if count else {})
            for low, high, count, confidence, correct in zip(
                edges, edges[1:], self._count, self._confidence, self._correct, strict=False
            )
        ]
        return {"ece": self._error(), "bins": bins}

    def name(self) -> str:
        return "calibration"

    def _error(self) -> float:
        return float(np.abs(self._correct - self._confidence).sum() / max(self._count.sum(), 1))


def counts(metric: Metric) -> dict[str, Any]:
    """What a metric has counted since its reset, as JSON: its numbers, lists and arrays that `reset` sets."""
    numbers = {name: _plain(value) for name, value in vars(metric).items() if _is_numeric(value)}
    probe = copy.deepcopy(metric)
    for name, value in numbers.items():
        setattr(probe, name, np.asarray(value) + 1)
    probe.reset()
    return {
        name: value for name, value in numbers.items() if not np.array_equal(vars(probe)[name], np.asarray(value) + 1)
    }


def set_counts(metric: Metric, values: Any) -> None:
    """Put back what `counts` gave. Raises ValueError for what another kind of metric gave."""
    expected = counts(metric)
    if not _alike(values, expected):
        raise ValueError(f"the running metric is not a {type(metric).__name__}")
    for name, value in values.items():
        now = getattr(metric, name)
        setattr(metric, name, np.array(value, now.dtype) if isinstance(now, np.ndarray) else value)


def _alike(value: Any, expected: Any) -> bool:
    """Whether two JSON values differ in their numbers only."""
    if isinstance(expected, dict):
        same_keys = isinstance(value, dict) and value.keys() == expected.keys()
        return same_keys and all(_alike(value[key], each) for key, each in expected.items())
    if isinstance(expected, list):
        same_length = isinstance(value, list) and len(value) == len(expected)
        return same_length and all(map(_alike, value, expected))
    return type(value) in (int, float) and abs(value) < 2**63


def _is_numeric(value: Any) -> bool:
    several = isinstance(value, list | np.ndarray) and np.asarray(value).dtype.kind in "iuf"
    return several or (isinstance(value, int | float | np.number) and not isinstance(value, bool))


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def label_ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The place of each label among its row's logits, int [N]: 0 is the highest; C for a row with a NaN."""
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    ranks = ((logits > own) | ((logits == own) & before)).sum(axis=1)
    return np.where(np.isnan(logits).any(axis=1), logits.shape[1], ranks)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64 [N, C]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def interval(share: float, images: int, z: float = 1.96) -> tuple[float, float]:
    """Where the share that so many images stand for lies, with 95 % confidence (Wilson 1927)."""
    spread = z**2 / images
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / images + spread / (4 * images)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
