"""The command `serve`: what it checks before it listens, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

import pytest
from asked_server import asked
from PIL import Image

from cifar_hapi import RecipeError, ServingOptions, serve
from cifar_hapi.cli import run_command
from cifar_hapi.serving.address import Address


@pytest.fixture
def command(monkeypatch, capfd, tmp_path):
    """Run a command line in this process, in an empty folder: exit code, output, errors."""
    monkeypatch.setattr("cifar_hapi.cli.prepare_process", lambda: None)  # Paddle is loaded already
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            code = run_command(["serve", *map(str, arguments)])
        except SystemExit as end:
            code = end.code
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def started(monkeypatch):
    """An event: a server of this process has started."""
    from cifar_hapi.serving.server import _Server

    event, startup = threading.Event(), _Server.startup

    async def noted(server, sockets=None):
        await startup(server, sockets)
        event.set()

    monkeypatch.setattr(_Server, "startup", noted)
    return event


def told_when_it_answers(started, port, number):
    """Send this process a signal as soon as the server at `port` answers."""

    def tell():
        try:
            assert started.wait(60) and asked(port, "/healthz").status == 200
        finally:
            os.kill(os.getpid(), number)

    threading.Thread(target=tell, daemon=True).start()


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_ends_with_the_code_of_the_signal(command, run, started, free_port, number, code):
    told_when_it_answers(started, free_port, number)
    found, out, err = command(run.path, "--port", free_port, "--max-batch", 1)
    assert found == code
    assert out == f"run {run.path} is served at http://127.0.0.1:{free_port}/ (Ctrl-C ends it)\n"
    assert err.startswith("\nanswering what has been asked") and "Traceback" not in err
    assert [each.name for each in threading.enumerate() if each.name.startswith(("network", "decoder"))] == []


def test_a_port_that_is_taken_is_one_line(command, run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        code, out, err = command(run.path, "--port", taken)
    assert (code, out) == (1, "")
    assert err == (
        f"error: 127.0.0.1 port {taken}: Address already in use; take another with --port, 0 for any that is free\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 4, "nowhere is no run"),
        ([], 4, "no run in runs/"),
        (
            ["nowhere", "--host", "no.such.host.invalid"],
            2,
            "host 'no.such.host.invalid': neither a name nor an address",
        ),
        (["nowhere", "--port", "70000"], 2, "70000 is not in the range"),
        (["nowhere", "--max-batch", "0"], 2, "0 is not in the range"),
        (["nowhere", "--max-queue", "3"], 2, "queue = 3: must hold the 32 images of one request"),
        (["nowhere", "--max-memory", "1"], 2, "must hold the 16,777,216 bytes of one request"),
        (["nowhere", "--wait-seconds", "0"], 2, "wait_seconds = 0.0: must be above 0"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(command, arguments, code, message):
    found, out, err = command(*arguments)
    assert (found, out) == (code, "") and message in err
    assert len(err.splitlines()) == 1 or err.startswith("Usage:")


def test_another_engine_that_is_none_is_told(command, run):
    code, _, err = command(run.path, "--port", 0, "--engine", "onednnn")
    assert code == 2 and "did you mean onednn?" in err and len(err.splitlines()) == 1


def test_a_missing_library_is_one_line_that_says_what_to_install(command, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert command(run.path) == (1, "", "error: serving needs uvicorn: pip install 'cifar-hapi[serve]'\n")
    with pytest.raises(ImportError, match=r"pip install 'cifar-hapi\[serve\]'"):
        serve(run)


def test_other_hosts_than_loopback_are_warned_of(command):
    code, _, err = command("nowhere", "--host", "0.0.0.0")
    assert code == 4 and err.splitlines()[0] == (
        "warning: host 0.0.0.0: whoever reaches it can send images; nothing is encrypted"
    )


def test_options_on_the_command_line_are_the_fields_in_their_units(command, run, monkeypatch):
    seen = {}
    monkeypatch.setattr("cifar_hapi.serving.launch.serve", lambda run, **named: seen.update(named))
    assert command(run.path)[0] == 0 and seen["options"] == ServingOptions()
    limits = ("--max-body", 0.5, "--max-pixels", 1.5, "--gather-ms", 0, "--max-images", 7, "--allow-host", "a.example")
    command(run.path, *limits, "--weights", "best", "--device", "cpu")
    assert seen["options"] == ServingOptions(body=2**19, pixels=1_500_000, gather_seconds=0.0, images=7)
    assert (seen["allow_hosts"], seen["weights"], seen["device"]) == (("a.example",), "best", "cpu")


def test_an_image_may_have_as_many_pixels_as_pillow_reads():
    assert ServingOptions(pixels=Image.MAX_IMAGE_PIXELS).pixels == Image.MAX_IMAGE_PIXELS
    with pytest.raises(RecipeError, match="pixels = "):
        ServingOptions(pixels=Image.MAX_IMAGE_PIXELS + 1)


@pytest.mark.parametrize(
    ("name", "value"), [("batch", 0), ("pixels", -1), ("pixels", 90_000_000), ("receive_seconds", float("nan"))]
)
def test_limits_that_cannot_be_are_refused(name, value):
    with pytest.raises(RecipeError, match=f"{name} = "):
        ServingOptions(**{name: value})


@pytest.mark.parametrize(
    ("host", "loopback", "every", "url"),
    [
        ("127.0.0.1", True, False, "http://127.0.0.1:80/"),
        ("127.0.0.2", True, False, "http://127.0.0.2:80/"),
        ("localhost", True, False, "http://localhost:80/"),
        ("::1", True, False, "http://[::1]:80/"),
        ("0.0.0.0", False, True, "http://localhost:80/"),
        ("::", False, True, "http://localhost:80/"),
        ("192.0.2.1", False, False, "http://192.0.2.1:80/"),
    ],
)
def test_addresses_are_told_apart(host, loopback, every, url):
    found = Address.of(host, 0)
    assert (found.loopback, found.any, found.url(80)) == (loopback, every, url)
