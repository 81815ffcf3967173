"""A callback made of functions."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from paddle.callbacks import Callback

_MOMENTS = sorted(name for name in dir(Callback) if name.startswith("on_"))


class LambdaCallback(Callback):
    """Calls the functions that are given by the names of Paddle's moments, with their arguments.

        model.fit(data, epochs=2, callbacks=[LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs))])

    Raises TypeError for a name that is no moment.
    """

    def __init__(self, **functions: Callable[..., Any]):
        super().__init__()
        for name, function in functions.items():
            if name not in _MOMENTS:
                near = get_close_matches(name, _MOMENTS, n=1)
                raise TypeError(
                    f"LambdaCallback: {name} is no moment; {f'did you mean {near[0]}' if near else _MOMENTS}"
                )
            if not callable(function):
                raise TypeError(f"LambdaCallback: {name} = {function!r}: expected a function")
            setattr(self, name, function)
