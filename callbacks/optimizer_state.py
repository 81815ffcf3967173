"""An optimiser's state by the names that the network gives its parameters.

Paddle's names ("conv2d_7.w_0_velocity_0") count the layers that a process has made; another process counts differently.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from callbacks.paddle_model import Tensors, optimizer

_SCHEDULER, _MASTER = "LR_Scheduler", "master_weights"


def optimizer_state(model: Any) -> tuple[Tensors, dict[str, Any]]:
    """Copies of the slots, `weight/velocity_0` and the like, and the scheduler's numbers ({} without a scheduler)."""
    names = _structured_names(model)
    state = dict(optimizer(model).state_dict())
    scheduler = plain(state.pop(_SCHEDULER, {}))
    masters = {f"{names[name]}/{_MASTER}": np.array(tensor) for name, tensor in state.pop(_MASTER, {}).items()}
    slots = {}
    for key, tensor in state.items():
        owner = max((name for name in names if key.startswith(f"{name}_")), key=len)
        slots[f"{names[owner]}/{key[len(owner) + 1 :]}"] = np.array(tensor)
    return slots | masters, scheduler


def set_optimizer_state(model: Any, slots: Tensors, scheduler: dict[str, Any]) -> None:
    """Put back what `optimizer_state` gave; with an empty `scheduler` the schedule stays where it is.

    Raises ValueError for slots that don't fit the model's parameters, and for another schedule's numbers.
    """
    paddle_names = {structured: name for name, structured in _structured_names(model).items()}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.network.named_parameters()}
    state: dict[str, Any] = {}
    for key, array in slots.items():
        owner, _, slot = key.rpartition("/")
        if owner not in paddle_names:
            raise ValueError(f"is of another optimizer: {key}: no such parameter here")
        if array.shape != shapes[owner] and array.size != 1:
            raise ValueError(f"is of another optimizer: {key}: {list(array.shape)}, here {list(shapes[owner])}")
        if slot == _MASTER:
            state.setdefault(_MASTER, {})[paddle_names[owner]] = array
        else:
            state[f"{paddle_names[owner]}_{slot}"] = array
    own = optimizer(model).state_dict().get(_SCHEDULER, {})
    if scheduler:
        _check_scheduler(own, scheduler)
    if own:  # Paddle insists on one where there is a scheduler
        state[_SCHEDULER] = scheduler or own
    optimizer(model).set_state_dict(state)


def _structured_names(model: Any) -> dict[str, str]:
    return {parameter.name: name for name, parameter in model.network.named_parameters()}


def _check_scheduler(expected: dict[str, Any], found: Any) -> None:
    """Raise ValueError unless `found` has the keys of the scheduler's own state, with numbers where it has numbers."""
    if not isinstance(found, dict) or found.keys() != expected.keys():
        raise ValueError(f"is of another schedule: {sorted(found)}, here {sorted(expected)}")
    for key, value in expected.items():
        if isinstance(value, dict):
            _check_scheduler(value, found[key])
        elif isinstance(value, int | float) and not _is_number(found[key], whole=key == "last_epoch"):
            raise ValueError(f"is of another schedule: {key} = {found[key]!r}")


def _is_number(value: Any, whole: bool) -> bool:
    return type(value) in ((int,) if whole else (int, float)) and abs(value) < 2**53


def plain(state: Any) -> Any:
    """The state of a scheduler or a scaler as JSON has it: NumPy's numbers become Python's."""
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [plain(value) for value in state]
    return state.item() if isinstance(state, np.generic | np.ndarray) else state
