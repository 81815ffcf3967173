"""Child processes that measure when they are asked, so that contenders take turns without starting anew.

A request and its answer are a line of JSON each, on the child's standard input and output. This needs nothing but the
standard library: a child may be a Python that has PyTorch and little else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from benchmarks.timing import take_turn, warm_up

ROOT = Path(__file__).parents[1]
SETTLE_SECONDS = 0.3  # after a step, threads of OpenMP spin on and take time from others; Intel's do for 0.2 s
_SETTINGS = ("OMP_", "GOMP_", "KMP_", "MKL_", "FLAGS_", "MALLOC_", "DNNL_", "ONEDNN_", "TORCH_", "ATEN_", "GLOG_")

Step = Callable[[], Any]
Samples = dict[tuple[str, str], list[float]]


class Unavailable(Exception):
    """Why a contender cannot take part."""


class Worker:
    """A child process that runs `serve`.

    about: what it says of itself. notes: what it has noted of its steps, in all turns. idle_seconds: how long it has
    waited between turns, idle_cpu_seconds: its processor time in those, which others lack.
    Raises Unavailable for a child that says so, RuntimeError with the end of its messages for one that ends early.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        self._messages = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean_environment() | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
        )
        self.idle_seconds, self.idle_cpu_seconds = 0.0, 0.0
        self.notes: list[Any] = []
        try:
            first = self._answer()
            if "unavailable" in first:
                raise Unavailable(first["unavailable"])
        except (Unavailable, RuntimeError):
            self.__exit__()
            raise
        self.about: dict[str, Any] = first["about"]
        self.works: list[str] = first["works"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()  # which ends `serve`
        self._process.stdout.close()
        if error and error[0] is not None:
            self._process.kill()
        self._process.wait()
        self._messages.close()

    def measure(self, work: str, seconds: float, at_least: int = 1) -> list[float]:
        """Seconds of each step of `work` in one turn, see `take_turn`."""
        request = {"work": work, "seconds": seconds, "at_least": at_least}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the child has ended: no answer comes, and what it said is raised
        answer = self._answer()
        self.idle_cpu_seconds += answer["idle_cpu"]
        self.idle_seconds += answer["idle_wall"]
        self.notes += answer["notes"]
        return answer["seconds"]

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._messages.seek(0)
        tail = self._messages.read()[-4000:]
        raise RuntimeError(f"{' '.join(self._process.args)}: ended with status {status}\n{tail}")


def serve(
    prepare: Callable[[], tuple[dict[str, Any], Mapping[str, Step]]],
    settle: float = SETTLE_SECONDS,
    noted: Callable[[], list[Any]] = list,
) -> None:
    """Measure on request until standard input ends; the child's side of `Worker`.

    prepare: what this contender says of itself, and its works by name, each a function that does one step. All are
    warmed up first. It may raise Unavailable. noted: gives what the steps have noted since it was called last, as JSON.
    """
    answers = _own_stdout()
    try:
        about, works = prepare()
    except Unavailable as why:
        _say(answers, unavailable=str(why))
        return
    for step in works.values():
        warm_up(step)
    time.sleep(settle)
    _say(answers, about=about, works=list(works))
    while True:
        cpu, wall = time.process_time(), time.perf_counter()
        line = sys.stdin.readline()
        if not line:
            return
        idle_cpu, idle_wall = time.process_time() - cpu, time.perf_counter() - wall
        request = json.loads(line)
        noted()  # of the warm-up
        seconds = take_turn(works[request["work"]], request["seconds"], request["at_least"])
        time.sleep(settle)
        _say(answers, seconds=seconds, notes=noted(), idle_cpu=idle_cpu, idle_wall=idle_wall)


def round_robin(workers: Mapping[str, Worker], rounds: int, seconds: float, at_least: int = 1) -> Samples:
    """Seconds of every step by (worker, work): in each round, each worker takes a turn at each of its works.

    seconds: how long a turn is. at_least: steps of each work in all rounds together, however long they take.
    """
    samples: Samples = {(name, work): [] for name, worker in workers.items() for work in worker.works}
    for number in range(1, rounds + 1):
        for name, work in samples:
            samples[name, work] += workers[name].measure(work, seconds, -(-at_least // rounds))
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    for name, worker in workers.items():
        if worker.idle_cpu_seconds > 0.02 * worker.idle_seconds + 0.1:
            print(f"{name} took {worker.idle_cpu_seconds:.1f} s of processor time between its turns", file=sys.stderr)
    return samples


def run_child(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """What a command printed, in a clean environment unless one is given.

    Raises RuntimeError with the end of its messages if it fails.
    """
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    done = subprocess.run(
        command, env=environment or clean_environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}\n{done.stderr[-4000:]}")
    return done.stdout


def warn_if_busy() -> None:
    """Say so on standard error when other programs take part of the machine: speeds beside them mean little."""
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5:
        print(
            f"the machine is busy (load {os.getloadavg()[0]:.1f} in the last minute): expect odd times", file=sys.stderr
        )


def clean_environment() -> dict[str, str]:
    """This process's environment without what sets threads, allocators and libraries."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_SETTINGS)}


def _own_stdout() -> TextIO:
    """Standard output for answers alone: what others print from here on goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _say(answers: TextIO, **content: Any) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()
