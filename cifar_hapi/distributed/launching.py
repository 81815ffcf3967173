"""Starting the processes that train together, by Paddle's launcher, and telling the user how they end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cifar_hapi.errors import LostProcess, RecipeError
from cifar_hapi.hardware import usable_cores
from cifar_hapi.runtime import require_paddle, users_threads

_TERMINAL = "CIFAR_HAPI_TERMINAL"  # where the first process gets the launching one's standard output and error
_OURS = ("--nproc", "--max-restart")  # options of this process, not of those that it starts
_MOST_A_CORE = 8  # each takes 300 MB and a turn of the core, and gains nothing from the second one on
_TOLD_WITHIN = 10  # seconds in which the launcher, which looks every second or two, finds a process that has ended
_PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)
_PASSED_ON = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def launch(
    arguments: list[str], processes: int, device: str = "auto", restarts: int = 0, again: Sequence[str] = ()
) -> int:
    """Run `cifar-hapi ARGUMENTS` in so many processes on this machine, until all have ended; the exit code.

    What the first one prints goes where this one's output goes; the others print nothing, but where one fails its last
    word is printed, with its rank. The processor's cores are shared out between them, unless the user has said how
    many threads to take. SIGINT, SIGTERM and SIGHUP are passed on: the training is saved, and ends, as it does when
    this process is killed.

    restarts: how often all are started again when one has been killed or lost, with `again` as further arguments, by
    which they go on from the last checkpoint. When they are used up, the exit code is that of LostProcess.

    Raises RecipeError where Paddle has no launcher, and for more processes than the machine would bear.
    """
    if sys.platform != "linux":
        raise RecipeError(f"--nproc {processes}: Paddle trains by several processes on Linux, this is {sys.platform}")
    if processes > (most := _MOST_A_CORE * usable_cores()):
        raise RecipeError(f"--nproc {processes}: at most {most} here, {_MOST_A_CORE} for each usable core")
    require_paddle()
    code = _launch_once(arguments, processes, device)
    for number in range(1, restarts + 1):
        if code != LostProcess.exit_code:
            break
        print(f"starting all processes again: {number} of {restarts}", file=sys.stderr, flush=True)
        code = _launch_once([*arguments, *again], processes, device)
    return code


def _launch_once(arguments: list[str], processes: int, device: str) -> int:
    with tempfile.TemporaryDirectory(prefix="cifar-hapi-") as folder:  # the launcher writes the environment there, too
        logs, terminal = Path(folder), Path(folder) / "terminal"
        with _lent_terminal(terminal), (logs / "launcher").open("wb") as talk:
            start = partial(
                subprocess.Popen,
                _command(arguments, processes, logs),
                env=os.environ | _environment(processes, device) | {_TERMINAL: str(terminal)},
                stdin=subprocess.DEVNULL,
                stdout=talk,
                stderr=talk,
                start_new_session=True,  # Ctrl-C reaches it through this process alone
                preexec_fn=partial(_end_with, os.getpid(), ctypes.CDLL(None)),
            )
            code, told = _run_passing_signals_on(start)
        if told:
            if told == signal.SIGINT:
                print("interrupted", file=sys.stderr)
            return 128 + told if code else 0
        if code < 0:
            print(f"Paddle's launcher was ended by {signal.Signals(-code).name}; so are its processes", file=sys.stderr)
            return 1
        return _failure(logs, processes, code) if code else 0


def is_first() -> bool:
    """Whether this process, alone or the first of several, is the one that prints."""
    return _rank() == 0


def take_terminal() -> None:
    """Make the output of the process that has launched this one its own, if this is the first of several.

    Of the others, too, the launcher's end is theirs: they save and leave.
    """
    place = os.environ.pop(_TERMINAL, None)
    if place is None:
        return
    _end_with(os.getppid(), ctypes.CDLL(None))
    if not is_first():
        return
    with socket.socket(socket.AF_UNIX) as connection, _named_shortly(Path(place)) as name:
        connection.connect(name)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
    for number, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)


def ended(code: int) -> int:
    """`code`, which from now on no signal changes: the launcher ends all processes when one of them has failed.

    A process that ends because another one has gone away waits to be told so, for a while: the launcher says which
    one has failed that it finds first, and that should be the other one.
    """
    if "PADDLE_TRAINER_ID" in os.environ:
        told = threading.Event()
        signal.signal(signal.SIGTERM, lambda number, frame: told.set())
        if code == LostProcess.exit_code and os.environ.get("PADDLE_LOCAL_SIZE") != "1":
            told.wait(_TOLD_WITHIN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return code


def _rank() -> int:
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def _command(arguments: list[str], processes: int, logs: Path) -> list[str]:
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    inward = ["--host", "127.0.0.1"]  # else Paddle has the processes meet at an address that others can reach
    return [*launcher, *inward, "--log_dir", str(logs), sys.executable, "-m", "cifar_hapi", *_without_ours(arguments)]


def _without_ours(arguments: list[str]) -> list[str]:
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument.partition("=")[0] not in _OURS:
            kept.append(argument)
        skip = argument in _OURS
    return kept


def _environment(processes: int, device: str) -> dict[str, str]:
    """What the processes find in their environment besides this one's."""
    added = {"PYTHONUNBUFFERED": "1"}
    if not users_threads():
        added["MKL_NUM_THREADS"] = str(max(1, usable_cores() // processes))
    if device == "cpu":
        added["PADDLE_DISTRI_BACKEND"] = "gloo"
    return added


@contextlib.contextmanager
def _lent_terminal(place: Path) -> Iterator[None]:
    """Within it, the process that connects to the socket at `place` gets this one's standard output and error."""
    with socket.socket(socket.AF_UNIX) as waiting:
        with _named_shortly(place) as name:
            waiting.bind(name)
        waiting.listen(1)
        threading.Thread(target=_lend, args=(waiting,), daemon=True).start()
        yield
        waiting.shutdown(socket.SHUT_RDWR)  # wakes the thread where nobody came


@contextlib.contextmanager
def _named_shortly(place: Path) -> Iterator[str]:
    """Within it, another name of the file: that of a socket has at most 107 bytes, however deep the folder is."""
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{place.name}"
    finally:
        os.close(folder)


def _lend(waiting: socket.socket) -> None:
    with contextlib.suppress(OSError), waiting.accept()[0] as connection:
        socket.send_fds(connection, [b"."], [1, 2])


def _run_passing_signals_on(start: Callable[[], subprocess.Popen[Any]]) -> tuple[int, int]:
    """Start a process and pass signals on to it until it has ended; its exit code, and the first signal, or 0."""
    told: list[int] = []
    started: list[subprocess.Popen[Any]] = []

    def pass_on(number: int, frame: Any) -> None:
        told.append(number)
        for process in started:
            process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        process = start()
        started.append(process)
        if told:  # while it was starting
            process.send_signal(signal.SIGTERM)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code, told[0] if told else 0


def _end_with(parent: int, libc: ctypes.CDLL) -> None:
    """Have the kernel send this process SIGTERM when `parent`, which has started it, is no more."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _failure(logs: Path, processes: int, code: int) -> int:
    """The exit code of a training that the launcher has ended with `code`; who has failed is printed.

    That is the last word of each process that has failed, but of the first one's, which has told it itself, and of
    those that have waited for another one, of which one is heard. Where none has a word, as when none was started, it
    is the launcher's.
    """
    # As Paddle's launcher logs it: "Container rank 1 status failed cmd [...] code -9 log ..."; a test has it do so.
    talk = (logs / "launcher").read_text("utf-8", "replace")
    killed = re.search(r"Container rank (\d+) status failed .* code -(\d+) ", talk)
    if killed:
        print(f"rank {killed[1]}: ended by {signal.Signals(int(killed[2])).name}", file=sys.stderr)
    heard, told = not (killed and killed[1] == "0"), bool(killed)
    for rank in range(1, processes):
        last = _last_word(logs / f"workerlog.{rank}")
        waited = last.startswith(f"error: rank {rank}: waited ")
        if last and not (waited and heard):
            print(last if waited else f"rank {rank}: {last}", file=sys.stderr)
            told = True
        heard = heard or waited
    if not told and (last := _last_word(logs / "workerlog.0")):  # which ends where it gets its own terminal
        print(f"rank 0: {last}", file=sys.stderr)
    if not any(logs.glob("workerlog.*")) and (last := _last_word(logs / "launcher")):
        print(f"Paddle's launcher: {last}", file=sys.stderr)
    if killed:
        return LostProcess.exit_code
    return code if 0 <= code < 128 else 1


def _last_word(log: Path) -> str:
    """The line that says why a process has failed, "" where there is none."""
    lines = log.read_text("utf-8", "replace").split("\n") if log.exists() else []
    errors = [line for line in lines if line.startswith("error: ")]
    if not errors and any(line.startswith("Traceback ") for line in lines):
        errors = [line for line in lines if line.strip()]
    return errors[-1] if errors else ""
