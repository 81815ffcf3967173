"""With this folder on PYTHONPATH, a rank kills itself in the middle of a step, as a lack of memory might; once.

KILLED is "RANK STEP FILE": which, in which of its steps, counted from 1, and what is there when it has been.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

_RANK, _STEP, _FILE = os.environ["KILLED"].split(" ", 2)


class _Finder:
    """Is asked before `cifar_hapi.model` is imported, which takes `over_all`, between forward and backward pass."""

    def find_spec(self, name, path=None, target=None):
        if name == "cifar_hapi.model":
            sys.meta_path.remove(self)
            from cifar_hapi.distributed import step

            step.over_all = _killed_in_the_end(step.over_all)


def _killed_in_the_end(over_all):
    left = int(_STEP)

    def step(*arguments):
        nonlocal left
        left -= 1
        if not left:
            Path(_FILE).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return over_all(*arguments)

    return step


if os.environ.get("PADDLE_TRAINER_ID") == _RANK and not Path(_FILE).exists():
    sys.meta_path.insert(0, _Finder())
