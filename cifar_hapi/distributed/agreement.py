"""Whether all processes train the same, and ending all where one is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cifar_hapi.distributed import ranks
from cifar_hapi.errors import CifarHapiError, DataError, LostProcess, RecipeError, RunError

_BEAT_SECONDS = 5.0  # well below the silence after which a process counts as lost
_KINDS = {kind.__name__: kind for kind in (RecipeError, DataError, RunError, LostProcess)}


@contextmanager
def refused_together() -> Iterator[None]:
    """What is refused inside in one process is refused in all, when all have come to its end.

    It may take any time, such as that of a download. Nothing inside may communicate. The first process raises its own
    error, or one that names the lowest rank that has one; the error that the others raise has been told by the first.
    """
    own: Exception | None = None
    with _awaited():
        try:
            yield
        except Exception as error:  # noqa: BLE001  # raised below; the others must not wait for this process in vain
            own = error
    told = ranks.gathered(_as_told(own))
    if ranks.rank() == 0 and own is not None:
        raise own
    for rank, refusal in enumerate(told):
        if refusal is not None:
            kind, text = refusal
            raise _refusal(_KINDS.get(kind, CifarHapiError), f"rank {rank}: {text}") from own


def check_same(what: str, facts: Callable[[], dict[str, Any]]) -> None:
    """Raise RunError, in all processes, where the `facts` of one are not those of the first.

    what: of which they are, such as "recipe"; the error has it, the rank, and the first that differs.
    """
    if ranks.count() == 1:
        return
    found = ranks.gathered(facts())  # all of them, its own too, as JSON has them
    for rank, theirs in enumerate(found):
        differing = [key for key in {**found[0], **theirs} if theirs.get(key) != found[0].get(key)]
        if differing:
            key = differing[0]
            more = f"; and {len(differing) - 1} more" if len(differing) > 1 else ""
            raise _refusal(
                RunError,
                f"rank {rank}: another {what} than rank 0's: {key} is {theirs.get(key)!r}, there "
                f"{found[0].get(key)!r}{more}; start all processes alike",
            )


@contextmanager
def _awaited() -> Iterator[None]:
    """Wait at its end until all processes have come there, however long one takes: a thread shows that it lives."""
    if ranks.count() == 1:
        yield
        return
    beating = _Beating()
    beating.start()
    try:
        yield
    except BaseException:  # Ctrl-C: this process leaves
        beating.leave()
        raise
    beating.end()


class _Beating(threading.Thread):
    """Tells the other processes every few seconds that this one is there, until all are done."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()
        self._left = False
        self._lost: Exception | None = None

    def run(self) -> None:
        everywhere = False
        while not (everywhere or self._left or self._lost):
            self._done.wait(_BEAT_SECONDS)
            try:
                everywhere = round(ranks.summed([self._done.is_set()])[0]) == ranks.count()
            except Exception as error:  # noqa: BLE001  # raised in the main thread
                self._lost = error

    def leave(self) -> None:
        """Beat no more, so that the others find this process lost."""
        self._left = True

    def end(self) -> None:
        """This process is done; return when all are. Raises what kept it from hearing of them."""
        self._done.set()
        self.join()
        if self._lost:
            raise self._lost


def _refusal(kind: type[CifarHapiError], text: str) -> CifarHapiError:
    """What all processes raise; the first one tells it."""
    error = kind(text)
    error.told = ranks.rank() > 0
    return error


def _as_told(error: Exception | None) -> tuple[str, str] | None:
    if error is None:
        return None
    kind = type(error).__name__
    return kind, str(error) if isinstance(error, CifarHapiError) else f"{kind}: {error}"
