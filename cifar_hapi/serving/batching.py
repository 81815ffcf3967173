"""Images that wait are answered together: one forward pass for those of all requests, in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

Classify = Callable[[np.ndarray], np.ndarray]  # uint8 [N, S, S, 3] to probabilities, float64 [N, C]


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network says of one image.

    probabilities: float64 [C]. waited: seconds until its batch began. network: seconds that the batch took. batch: how
    many images it had.
    """

    probabilities: np.ndarray
    waited: float
    network: float
    batch: int


@dataclass(frozen=True, eq=False)
class _Waiting:
    image: np.ndarray
    answer: Future[Answer]
    since: float


class Batcher:
    """Gathers images into batches and has them classified, in the one thread that has the network.

    network: entered in that thread for as long as it lives; gives the function that classifies. most: images in a
    batch. seconds: how long the first of a batch waits for others. expected: how many images there are in all that
    have no answer yet; a batch that has them all does not wait.
    """

    def __init__(
        self,
        network: Callable[[], AbstractContextManager[Classify]],
        most: int,
        seconds: float,
        expected: Callable[[], int],
    ) -> None:
        self._network, self._most, self._seconds, self._expected = network, most, seconds, expected
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def __enter__(self) -> Batcher:
        """Returns when the network is there; raises what it raises."""
        self._thread.start()
        self._ready.result()
        return self

    def __exit__(self, *error: object) -> None:
        """Answers what waits, and ends."""
        self._queue.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, image: np.ndarray) -> Future[Answer]:
        """image: uint8 [S, S, 3]. A future that is cancelled before its batch begins is left out."""
        waiting = _Waiting(image, Future(), time.perf_counter())
        self._queue.put(waiting)
        return waiting.answer

    def _run(self) -> None:
        try:
            with self._network() as classify:
                self._ready.set_result(None)
                while self._answer_batch(classify):
                    pass
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    def _answer_batch(self, classify: Classify) -> bool:
        """Whether there are to be more."""
        batch, more = self._gathered()
        batch = [each for each in batch if each.answer.set_running_or_notify_cancel()]
        if not batch:
            return more
        begun = time.perf_counter()
        try:
            probabilities = classify(np.stack([each.image for each in batch]))
        except Exception as error:  # noqa: BLE001  # each of those who wait raises it
            for each in batch:
                each.answer.set_exception(error)
            return more
        took = time.perf_counter() - begun
        for each, row in zip(batch, probabilities, strict=True):
            each.answer.set_result(Answer(row, begun - each.since, took, len(batch)))
        return more

    def _gathered(self) -> tuple[list[_Waiting], bool]:
        first = self._queue.get()
        if first is None:
            return [], False
        batch, end = [first], time.perf_counter() + self._seconds
        while len(batch) < self._most:
            left = end - time.perf_counter() if len(batch) < self._expected() else 0.0
            try:
                following = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return batch, False
            batch.append(following)
        return batch, True
