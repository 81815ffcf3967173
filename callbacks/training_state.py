"""What a training is at one moment: taken out of a model and its callbacks, and put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from callbacks import random_state
from callbacks.checkpoint_folder import Saved
from callbacks.epoch_logs import checked
from callbacks.optimizer_state import optimizer_state, plain, set_optimizer_state
from callbacks.paddle_model import Tensors, optimizer, scaler, set_weights, weights

Count = Annotated[int, Field(ge=0, lt=2**64, strict=True)]


@dataclass(frozen=True)
class ResumePoint:
    """Where a training is: complete epochs, batches done of the next one, batches in all.

    planned: how many epochs it was to have. ended: whether it had come to its end, after all of them or earlier.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    planned: int = 0
    ended: bool = False


@dataclass
class TrainingState:
    """What state.json holds; `running` are the metrics of the epoch so far, `random_at_epoch` is of its begin."""

    epoch: Count
    batch: Count
    step: Count
    planned: Count
    ended: bool
    metrics: dict[str, Any]
    optimizer: str
    scheduler: dict[str, Any]
    scaler: dict[str, Any]
    seed: Count
    random: dict[str, Any]
    random_at_epoch: dict[str, Any]
    running: dict[str, Any]
    callbacks: dict[str, dict[str, Any]]


def capture(model: Any, callbacks: dict[str, Any], place: ResumePoint, **rest: Any) -> Saved:
    """Copies of everything. callbacks: by name, those with a state. rest: metrics, seed and random_at_epoch."""
    use = train = weights(model)
    for callback in callbacks.values():
        if hasattr(callback, "saved_weights"):
            use, train = callback.saved_weights(train)
    slots, schedule = optimizer_state(model)
    states, arrays = _split(callbacks)
    state = TrainingState(
        **asdict(place),
        **rest,
        optimizer=type(optimizer(model)).__name__,
        scheduler=schedule,
        scaler=plain(scaler(model).state_dict()) if scaler(model) is not None else {},
        random=random_state.capture(),
        running=model.running_metrics() if place.batch and can_begin_within_an_epoch(model) else {},
        callbacks=states,
    )
    return Saved(use, asdict(state), slots, arrays, None if train is use else train)


def put_back(model: Any, saved: Saved, state: TrainingState) -> None:
    """Make `model` what it was. state: that of `saved`, checked. Raises ValueError where the two don't fit.

    The random numbers are those of the epoch's begin, at which its data is shuffled; `random` is for its next batch.
    """
    here = type(optimizer(model)).__name__
    if here != state.optimizer:
        raise ValueError(f"is of another optimizer: {state.optimizer}, here {here}")
    put_back_weights(model, saved, state.scheduler)
    if scaler(model) is not None:
        scaler(model).load_state_dict(state.scaler)
    random_state.restore(state.random)
    random_state.restore(state.random_at_epoch)
    if state.batch:
        model.set_running_metrics(state.running)


def put_back_weights(model: Any, saved: Saved, schedule: dict[str, Any] | None = None) -> None:
    """Weights, statistics and the optimiser's slots only, and its `schedule` if given."""
    set_weights(model, saved.to_go_on)
    set_optimizer_state(model, saved.optimizer, schedule or {})


def training_state(saved: Saved) -> TrainingState:
    """state.json, checked. Raises ValueError."""
    if not saved.state:
        raise ValueError("holds weights alone: there is nothing to go on training from")
    state: TrainingState = checked(TrainingState, saved.state, "the training")
    return state


def callback_states(saved: Saved) -> dict[str, dict[str, Any]]:
    """What each callback remembered, by name, its arrays included."""
    return {name: _joined(name, state, saved.callbacks) for name, state in saved.state["callbacks"].items()}


def can_begin_within_an_epoch(model: Any) -> bool:
    """Whether `fit` of this kind of model can leave out batches that are done: cifar_hapi.Model can, Paddle's can't."""
    return hasattr(model, "set_running_metrics")


def by_name(callbacks: Sequence[Any]) -> dict[str, Any]:
    """Those that have a state, by class; the second of a class is called e.g. EarlyStopping-2."""
    named: dict[str, Any] = {}
    for callback in callbacks:
        if hasattr(callback, "state_dict") and hasattr(callback, "set_state_dict"):
            kind = type(callback).__name__
            count = 1 + sum(type(each).__name__ == kind for each in named.values())
            named[kind if count == 1 else f"{kind}-{count}"] = callback
    return named


def _split(callbacks: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], Tensors]:
    """What the callbacks remember: the JSON of each, and arrays by Callback/field/name."""
    states = {name: callback.state_dict() for name, callback in callbacks.items()}
    arrays: Tensors = {}
    for name, state in states.items():
        for key in [key for key, value in state.items() if _is_arrays(value)]:
            arrays |= {f"{name}/{key}/{each}": array for each, array in state.pop(key).items()}
    return states, arrays


def _joined(name: str, state: dict[str, Any], arrays: Tensors) -> dict[str, Any]:
    """The opposite of `_split` for one callback."""
    found: dict[str, Any] = dict(state)
    for key, array in arrays.items():
        owner, _, rest = key.partition("/")
        if owner == name:
            field_name, _, each = rest.partition("/")
            found.setdefault(field_name, {})[each] = array
    return found


def _is_arrays(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, np.ndarray) for each in value.values())
