"""The evaluation.json of a run, checked, for what shows or compares it."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from cifar_hapi.errors import RunError
from cifar_hapi.run import Run

_FINITE = ConfigDict(allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=_FINITE)
class Bin:
    """What was predicted with a probability in (low, high]: how often, how probable on average, how often rightly."""

    low: Annotated[Share, Field(alias="from")]
    high: Annotated[Share, Field(alias="to")]
    count: Count
    confidence: Share | None = None
    accuracy: Share | None = None


@dataclass(frozen=True, config=_FINITE)
class RecordedCalibration:
    """The expected calibration error, and its bins."""

    ece: Share
    bins: Annotated[tuple[Bin, ...], Field(min_length=1, max_length=1000)]


@dataclass(frozen=True, config=_FINITE)
class Plain:
    """The result on the images alone, where the other is averaged over views."""

    top1: Share


@dataclass(frozen=True, kw_only=True, config=_FINITE)
class RecordedEvaluation:
    """What `evaluate` has found; confusion: [C][C], row = label. Other keys of the file are passed over."""

    images: Annotated[int, Field(ge=1)]
    top1: Share
    top5: Share
    loss: float
    per_class: dict[str, Share]
    confusion: tuple[tuple[Count, ...], ...]
    calibration: RecordedCalibration
    data: str
    note: str
    weights: str
    step: Count
    when: str
    views: str = "plain"
    without_views: Plain | None = None

    @model_validator(mode="after")
    def _is_square(self) -> RecordedEvaluation:
        classes = len(self.per_class)
        if classes < 1 or [len(row) for row in self.confusion] != [classes] * classes:
            raise ValueError("the confusion matrix is not one of the classes")
        return self

    @property
    def right(self) -> int:
        """How many images were classified as what they are."""
        return sum(row[place] for place, row in enumerate(self.confusion))


def recorded_evaluation(run: Run) -> RecordedEvaluation | None:
    """What the run's last evaluation found; None before the first. Raises RunError where it is damaged."""
    found = run.evaluation
    if found is None:
        return None
    try:
        return TypeAdapter(RecordedEvaluation).validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ").lower()
        raise RunError(f"{run.path / 'evaluation.json'}: {key}: {why}; evaluate the run again") from None
