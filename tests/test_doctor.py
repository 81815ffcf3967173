"""What `cifar-hapi doctor` finds, how it says so, and what it answers with."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from cifar_hapi import doctor, runtime
from cifar_hapi.cli import run_command
from cifar_hapi.doctor import Problem, examine, show

CPU_BUILD = {"version": "3.3.1", "cuda": False, "gpus": []}
GPU_BUILD = {"version": "3.3.1", "cuda": True, "gpus": ["NVIDIA A10", "NVIDIA A10"]}


@pytest.fixture
def working(monkeypatch, tmp_path):
    """A machine without GPUs where Paddle works; the working folder, the cache and the environment are empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("CIFAR_HAPI_DATA", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "FLAGS_paddle_num_threads"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runtime, "_outcomes", {})
    monkeypatch.setattr(doctor, "apply_settings", runtime.process_settings)  # this process is the tests'
    monkeypatch.setattr(doctor, "usable_cores", lambda: 4)
    monkeypatch.setattr(runtime, "usable_cores", lambda: 4)
    monkeypatch.setattr(doctor, "_has_nvidia_gpu", lambda: False)
    paddle_is(monkeypatch, CPU_BUILD)
    engine_is(monkeypatch, usable=True, why="oneDNN 3.6.2", native_bfloat16=True)
    return tmp_path


def paddle_is(monkeypatch, found, *problems):
    monkeypatch.setattr(doctor, "_try_paddle", lambda: (found, list(problems)))


def engine_is(monkeypatch, **answer):
    asked = []
    monkeypatch.setattr(
        "cifar_hapi.engine.onednn_availability", lambda device: asked.append(device) or SimpleNamespace(**answer)
    )
    return asked


def shown(found, width=80):
    text = io.StringIO()
    show(Console(file=text, width=width, highlight=False, markup=False), found)
    return text.getvalue()


def test_a_machine_without_fault(working):
    found = examine()
    assert found.problems == [] and found.training_works
    assert found.versions["paddle"] == "3.3.1" and found.cores == 4 and found.gpus == []
    assert found.engine == {"auto": "onednn", "why": "oneDNN 3.6.2", "native_bfloat16": True}
    assert found.data == {"cifar10": None, "cifar100": None}
    assert found.cache == {"path": str(working / "cache" / "cifar-hapi"), "writable": True}
    assert list(working.iterdir()) == []  # it looks and makes nothing
    assert shown(found).splitlines()[-1] == "training works here"


def test_what_a_setting_gains_is_said_of_the_kernels_that_it_was_measured_with(working):
    rows = shown(examine(), 160).partition("process settings")[2].splitlines()
    gains = [row.strip() for row in rows if re.search(r"\d of the time|times as fast", row)]
    assert len(gains) == 2 and all(row.startswith("With Paddle's own kernels, ") for row in gains)
    assert "Paddle's big tensors get memory" in "".join(rows)


def test_where_onednn_cannot_be_had_auto_takes_native_and_says_why(working, monkeypatch):
    engine_is(monkeypatch, usable=False, why="this Paddle carries no libdnnl.so.3", native_bfloat16=False)
    found = examine()
    assert found.engine["auto"] == "native" and found.training_works
    assert re.search(r"auto takes native \(this Paddle carries no libdnnl.so.3\) *\n", shown(found, 120))


def test_gpus_are_named_and_the_engine_is_that_of_the_gpu(working, monkeypatch):
    asked = engine_is(monkeypatch, usable=False, why="it runs on a CPU", native_bfloat16=False)
    paddle_is(monkeypatch, GPU_BUILD)
    assert "NVIDIA A10, NVIDIA A10" in shown(examine()) and asked == ["gpu"]


def test_data_is_found_where_it_is_looked_for(working, monkeypatch, small_cifar):
    monkeypatch.setenv("CIFAR_HAPI_DATA", str(small_cifar))
    found = examine()
    assert found.data["cifar10"].startswith(str(small_cifar)) and found.data["cifar100"] is None
    assert found.data_folders == [str(small_cifar), str(working / "cache" / "cifar-hapi")]
    assert "cifar-hapi data fetch cifar100" in shown(found) and "fetch cifar10\n" not in shown(found, 120)


@pytest.mark.parametrize(
    ("paddle", "nvidia", "what", "remedy"),
    [
        (CPU_BUILD, True, "there is an NVIDIA GPU, and Paddle is the CPU build", "cifar-hapi[gpu]"),
        (CPU_BUILD | {"cuda": True}, False, "is the GPU build and sees no GPU", "nvidia-smi"),
    ],
)
def test_a_gpu_that_is_not_used_is_a_warning(working, monkeypatch, paddle, nvidia, what, remedy):
    paddle_is(monkeypatch, paddle)
    monkeypatch.setattr(doctor, "_has_nvidia_gpu", lambda: nvidia)
    found = examine()
    (problem,) = found.problems
    assert what in problem.what and remedy in problem.remedy and found.training_works
    assert f"warning: {problem.what}" in shown(found, 200)


@pytest.mark.parametrize(("variable", "value"), [("OMP_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "2")])
def test_fewer_threads_than_cores_are_a_warning(working, monkeypatch, variable, value):
    monkeypatch.setattr(runtime, "_first_environment", lambda: frozenset({variable}))
    monkeypatch.setenv(variable, value)
    (problem,) = examine().problems
    assert problem.what == f"arithmetic takes {value} of 4 cores: {variable}={value}" and not problem.stops
    monkeypatch.setenv(variable, "4")
    assert examine().problems == []


def test_a_data_folder_that_is_not_there_is_a_warning(working, monkeypatch):
    monkeypatch.setenv("CIFAR_HAPI_DATA", "nowhere")
    (problem,) = examine().problems
    assert problem.what == "CIFAR_HAPI_DATA=nowhere: there is no such folder" and not problem.stops


@pytest.mark.parametrize("have_data", [False, True])
def test_a_cache_that_cannot_be_written_stops_training_only_without_data(working, monkeypatch, small_cifar, have_data):
    (working / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(working / "file"))
    if have_data:
        monkeypatch.setenv("CIFAR_HAPI_DATA", str(small_cifar))
    found = examine()
    (problem,) = found.problems
    assert "cannot be written" in problem.what and found.training_works == have_data
    assert not found.cache["writable"] and "(cannot be written)" in shown(found, 200)


def test_a_place_for_runs_that_cannot_be_written_stops_training(working):
    (working / "runs").touch()
    (problem,) = examine().problems
    assert problem.stops and "--run-dir" in problem.remedy


def test_a_broken_paddle_is_said_and_the_rest_is_still_shown(working, monkeypatch):
    broken = Problem("Paddle does not work: libgomp.so.1 is missing", "reinstall it", stops=True)
    paddle_is(monkeypatch, None, broken)
    found = examine()
    assert not found.training_works and found.gpus is None and found.engine is None
    text = shown(found)
    assert "paddle missing" in text and "looked for in" in text
    assert text.splitlines()[-3:] == [f"error: {broken.what}", "  reinstall it", "training would not work here"]


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        ("raise ImportError('libgomp.so.1: cannot open shared object file')", "ImportError: libgomp.so.1: cannot open"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "it ended the process with SIGILL"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_a_paddle_that_fails_its_trial_is_a_problem_with_its_last_words(monkeypatch, trial, words):
    monkeypatch.setattr(doctor, "_TRIAL", trial)
    found, (problem,) = doctor._try_paddle()
    assert found is None and problem.stops and problem.what.startswith(f"Paddle does not work: {words}")


def test_two_builds_of_paddle_stop_training(monkeypatch):
    installed = [SimpleNamespace(metadata={"Name": name}) for name in ("paddlepaddle-gpu", "numpy", "paddlepaddle")]
    monkeypatch.setattr(doctor, "distributions", lambda: installed)
    monkeypatch.setattr(doctor, "_TRIAL", f"print('a word of its own'); print({json.dumps(json.dumps(CPU_BUILD))})")
    found, (problem,) = doctor._try_paddle()
    assert found == CPU_BUILD and problem.stops
    assert "both paddlepaddle and paddlepaddle-gpu are installed" in problem.what
    assert "pip uninstall -y paddlepaddle paddlepaddle-gpu" in problem.remedy


@pytest.mark.parametrize("width", [60, 120])
def test_it_fits_the_terminal_and_leaves_names_and_values_whole(working, monkeypatch, width):
    paddle_is(monkeypatch, CPU_BUILD, Problem("a long complaint " * 8, "a long remedy " * 8, stops=False))
    monkeypatch.setenv("XDG_CACHE_HOME", str(working / ("long" * 40)))
    found = examine()
    lines = shown(found, width).splitlines()
    assert "".join("".join(lines).split()).count(found.cache["path"]) == 2
    assert max(map(len, lines)) <= width
    assert [each.name for each in found.settings if not any(line.startswith(each.name) for line in lines)] == []
    assert any(line.rstrip().endswith("cifar-hapi data fetch cifar10") for line in lines)


@pytest.mark.parametrize("stops", [False, True])
def test_the_exit_code_tells_whether_training_would_work(working, monkeypatch, capsys, stops):
    paddle_is(monkeypatch, CPU_BUILD, Problem("something", "do something", stops))
    assert run_command(["doctor"]) == int(stops)
    assert "MKL_NUM_THREADS" in capsys.readouterr().out
    assert run_command(["doctor", "--quiet"]) == int(stops)
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert run_command(["doctor", "--json"]) == int(stops)
    found = json.loads(capsys.readouterr().out)
    assert found["training_works"] is not stops and found["problems"][0]["remedy"] == "do something"
    assert {each["name"]: each["state"] for each in found["settings"]}.keys() >= {"MKL_NUM_THREADS", "M_MMAP_MAX"}


def program(start, *arguments):
    return subprocess.run(
        [sys.executable, "-c", f"{start}\nfrom cifar_hapi.cli import main\nsys.argv[1:] = {arguments!r}\nmain()"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_real_thing_works_here_and_prints_json_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = program("import sys", "doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["training_works"] and found["engine"]["auto"] in ("onednn", "native") and found["memory"] > 1 << 20


NO_PADDLE = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "paddle" else real(name, *rest)
"""


def test_without_paddle_the_answer_can_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = program(NO_PADDLE, "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert "error: Paddle is not installed" in done.stdout and "pip install 'cifar-hapi[cpu]'" in done.stdout
    assert done.stdout.splitlines()[-1] == "training would not work here"
