"""Which test images a page shows, and what it says of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cifar_hapi.report.answered_images import AnsweredImages
from cifar_hapi.report.figure import spread
from cifar_hapi.report.thumbnails import data_uri

_MISTAKES, _SAMPLES = 24, 24


@dataclass(frozen=True)
class Picture:
    """number: its place in the test set. probability: of the predicted class; of_label: of the true one."""

    source: str
    number: int
    label: str
    predicted: str
    probability: float
    of_label: float

    @property
    def right(self) -> bool:
        return self.label == self.predicted


def surest_mistakes(seen: AnsweredImages) -> list[Picture]:
    """The mistakes that the network was surest of."""
    return _pictures(seen, seen.answers.surest_mistakes(_MISTAKES).tolist())


def sample_pictures(seen: AnsweredImages) -> list[Picture]:
    """Images evenly spread over the set: nobody has chosen them."""
    return _pictures(seen, spread(len(seen.images), _SAMPLES).tolist())


def _pictures(seen: AnsweredImages, places: Iterable[int]) -> list[Picture]:
    names, answers = seen.images.class_names, seen.answers
    return [
        Picture(
            data_uri(seen.images.images[place]),
            place,
            names[answers.labels[place]],
            names[answers.classes[place, 0]],
            float(answers.probabilities[place, 0]),
            float(answers.of_label[place]),
        )
        for place in places
    ]
