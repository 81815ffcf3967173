"""Ending what is under way, such as the step of a training, before the process goes when it is told to."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from callbacks.processes import is_alone, is_writer

_ENDING = (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
_SAID = b"\nsaving after this step; once more ends it at once\n"
_SAID_TO_ALL = b"\nsaving after this step\n"


class SignalWatch:
    """Notes the first SIGTERM, Ctrl-C or hang-up instead of dying of it; the next one does what it did before.

    In a thread other than the main one, and for signals that the process ignores, nothing changes. One of several
    processes ignores SIGTERM after the first: Paddle's launcher, told to end, sends it three times within 0.6 s, and
    SIGKILL to what has not ended after 30.
    """

    def __init__(self, said: bytes = _SAID) -> None:
        """said: what standard error is told at the first signal."""
        self._said = said
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def start(self) -> None:
        self.received = None
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._note)

    def stop(self) -> None:
        while self._previous:
            number, before = self._previous.popitem()
            repeated = self.received is not None and number == signal.SIGTERM and not is_alone()
            signal.signal(number, signal.SIG_IGN if repeated else before)

    def leave(self, number: int) -> None:
        """End the process as the signal would have: KeyboardInterrupt, SystemExit(143) for SIGTERM, 129 for SIGHUP."""
        self.received = number  # perhaps by another process alone so far
        self.stop()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.stop()
        if is_writer():
            os.write(2, self._said if is_alone() else _SAID_TO_ALL)
