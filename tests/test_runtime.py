"""The settings of the process: what is applied where, what the user has set, what came too late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_training import small_fit

from cifar_hapi import evaluate, load, predict, runtime
from cifar_hapi.hardware import Cpu

AMD, INTEL = (Cpu("a CPU", vendor, frozenset({"avx", "avx2"})) for vendor in ("AuthenticAMD", "GenuineIntel"))
ALL = ["MKL_DEBUG_CPU_TYPE", "MKL_NUM_THREADS", "M_MMAP_MAX", "M_TRIM_THRESHOLD", "M_ARENA_MAX"]
MALLOC = ALL[2:]
VARIABLES = (
    "MKL_DEBUG_CPU_TYPE",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "FLAGS_paddle_num_threads",
    "GLOG_minloglevel",
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_ARENA_MAX_",
)


@pytest.fixture
def fresh(monkeypatch):
    """A process as it starts, on a Linux machine with glibc and an AMD CPU of 4 cores, before Paddle is loaded.

    Yields the calls of mallopt.
    """
    calls = []
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    monkeypatch.setattr(runtime, "_outcomes", {})
    monkeypatch.setattr(runtime, "_told", set())
    monkeypatch.setattr(runtime, "_mkl_is_loaded", lambda: False)
    monkeypatch.setattr(runtime, "_call_mallopt", lambda name, value: calls.append((name, value)) or True)
    monkeypatch.setattr(runtime, "usable_cores", lambda: 4)
    elsewhere(monkeypatch)
    return calls


def elsewhere(monkeypatch, system="Linux", machine="x86_64", libc="glibc", cpu=AMD):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.libc_ver", lambda: (libc, ""))
    monkeypatch.setattr(runtime, "cpu", lambda: cpu)


def states(settings):
    return {setting.name: setting.state for setting in settings}


def test_everything_is_applied_before_paddle_loads(fresh):
    assert set(states(runtime.process_settings()).values()) == {"open"}
    assert set(states(runtime.apply_settings()).values()) == {"applied"}
    found = {name: os.environ.get(name) for name in VARIABLES if name in os.environ}
    assert found == {"MKL_DEBUG_CPU_TYPE": "5", "MKL_NUM_THREADS": "4", "GLOG_minloglevel": "2"}
    assert fresh == [("M_MMAP_MAX", "0"), ("M_TRIM_THRESHOLD", "2147483647"), ("M_ARENA_MAX", "1")]


def test_settings_are_applied_once_a_process(fresh):
    runtime.apply_settings()
    assert {each.name: each.why for each in runtime.apply_settings()}["MKL_NUM_THREADS"].startswith("Paddle would")
    os.environ["MKL_NUM_THREADS"] = "3"  # the user's own hand, later
    runtime.apply_settings()
    assert len(fresh) == 3 and os.environ["MKL_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("place", "unneeded", "why"),
    [
        (
            {"system": "Darwin", "machine": "arm64", "libc": ""},
            ALL,
            "Darwin",
        ),
        (
            {"system": "Windows", "machine": "AMD64", "libc": ""},
            ALL,
            "Windows",
        ),
        ({"libc": ""}, ALL, "another C library"),
        ({"libc": "musl"}, ALL, "another C library"),
        ({"machine": "aarch64"}, ["MKL_DEBUG_CPU_TYPE", "MKL_NUM_THREADS"], "aarch64"),
        ({"cpu": INTEL}, ["MKL_DEBUG_CPU_TYPE"], "Intel"),
        ({"cpu": Cpu("unknown", "", frozenset())}, ["MKL_DEBUG_CPU_TYPE"], "/proc/cpuinfo"),
        ({"cpu": Cpu("old", "AuthenticAMD", frozenset({"avx"}))}, ["MKL_DEBUG_CPU_TYPE"], "AVX2"),
    ],
    ids=["macOS", "Windows", "unknown libc", "musl", "ARM", "Intel", "no cpuinfo", "no AVX2"],
)
def test_elsewhere_what_is_not_needed_is_not_set(fresh, monkeypatch, place, unneeded, why):
    elsewhere(monkeypatch, **place)
    settings = runtime.apply_settings()
    assert [setting.name for setting in settings if setting.state == "not needed"] == unneeded
    assert all(why in setting.why for setting in settings if setting.state == "not needed")
    assert [name for name in unneeded if name in os.environ] == []
    assert [name for name, _ in fresh] == [name for name in MALLOC if name not in unneeded]


def test_one_core_needs_no_threads(fresh, monkeypatch):
    monkeypatch.setattr(runtime, "usable_cores", lambda: 1)
    assert states(runtime.apply_settings())["MKL_NUM_THREADS"] == "not needed" and "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(
    ("variable", "value", "setting", "wanted"),
    [
        ("MKL_DEBUG_CPU_TYPE", "4", "MKL_DEBUG_CPU_TYPE", "5"),
        ("MKL_NUM_THREADS", "3", "MKL_NUM_THREADS", "3"),
        ("OMP_NUM_THREADS", "1", "MKL_NUM_THREADS", "1"),
        ("GLOG_minloglevel", "0", "GLOG_minloglevel", "2"),
        ("MALLOC_MMAP_MAX_", "9", "M_MMAP_MAX", "0"),
        ("MALLOC_ARENA_MAX_", "9", "M_ARENA_MAX", "1"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=0:glibc.malloc.trim_threshold=9", "M_TRIM_THRESHOLD", "2147483647"),
    ],
)
def test_what_the_user_has_set_wins(fresh, variable, value, setting, wanted):
    os.environ[variable] = value
    found = {each.name: each for each in runtime.apply_settings()}
    assert found[setting].state == "set in the environment" and found[setting].value == wanted
    assert value.rpartition(":")[2] in found[setting].why
    assert os.environ[variable] == value and setting not in dict(fresh)
    assert {name for name, each in found.items() if each.state == "applied"} == set(found) - {setting}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 4),
        ({"FLAGS_paddle_num_threads": "7"}, 7),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"MKL_NUM_THREADS": "2", "OMP_NUM_THREADS": "3"}, 2),
        ({"FLAGS_paddle_num_threads": "many", "OMP_NUM_THREADS": "0"}, 4),
    ],
)
def test_threads_are_what_the_environment_says_else_the_cores(fresh, environment, expected):
    os.environ.update(environment)
    assert runtime.threads() == expected


def test_paddles_own_flag_which_it_ignores_is_made_true(fresh):
    os.environ |= {"FLAGS_paddle_num_threads": "7"}
    runtime.apply_settings()
    assert os.environ["MKL_NUM_THREADS"] == "7"


def test_what_paddle_wrote_itself_is_not_taken_for_the_users(fresh, monkeypatch):
    monkeypatch.setattr(runtime, "_first_environment", lambda: frozenset())
    os.environ["OMP_NUM_THREADS"] = "1"
    assert runtime.threads() == 1
    monkeypatch.setitem(sys.modules, "paddle", None)
    assert runtime.threads() == 4
    monkeypatch.setattr(runtime, "_first_environment", lambda: frozenset({"OMP_NUM_THREADS"}))
    assert runtime.threads() == 1


def test_a_refusal_is_told(fresh, monkeypatch):
    monkeypatch.setattr(runtime, "_call_mallopt", lambda name, value: False)
    assert {states(runtime.apply_settings())[name] for name in MALLOC} == {"refused"}


def test_only_what_came_too_late_and_matters_is_told_and_once(fresh, monkeypatch):
    assert runtime.slowed_by(runtime.process_settings()) == ""
    monkeypatch.setattr(runtime, "_mkl_is_loaded", lambda: True)
    late = runtime.apply_settings()
    assert states(late)["MKL_DEBUG_CPU_TYPE"] == "too late" and "MKL_DEBUG_CPU_TYPE" not in os.environ
    assert "MKL_DEBUG_CPU_TYPE=5" in runtime.slowed_by(late)
    assert runtime.slowed_by(late) == ""


def test_the_command_line_must_come_before_paddle(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "paddle", None)
    with pytest.raises(RuntimeError, match="before paddle is imported"):
        runtime.prepare_process()


def python(script, **environment):
    """Run a script in a process without settings in its environment; its last line as JSON, and all it printed."""
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=clean | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


LOADED = """
import os, signal, threading
from cifar_hapi import runtime
with runtime._quiet_end():
    import paddle
    {within}
print("loaded", flush=True)
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signals of POSIX")
@pytest.mark.parametrize("within", ["", "os.kill(os.getpid(), signal.SIGTERM)"])
@pytest.mark.parametrize(("rank", "code"), [({}, 128 + signal.SIGTERM), ({"PADDLE_TRAINER_ID": "0"}, -signal.SIGTERM)])
def test_sigterm_ends_a_command_without_a_word_from_paddle(within, rank, code):
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LOADED.format(within=within)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **rank},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if not within:
        assert process.stdout.readline() == "loaded\n"
        process.terminate()
    assert (process.stdout.read(), process.wait(60)) == ("", code)


def test_importing_the_package_changes_nothing_and_loads_no_paddle():
    script = "import os, sys, json; before = dict(os.environ); import cifar_hapi, cifar_hapi.cli, cifar_hapi.runtime; "
    script += "print(json.dumps([dict(os.environ) == before, 'paddle' in sys.modules]))"
    assert python(script)[0] == [True, False]


PREPARE = """
import json, os
from cifar_hapi.runtime import prepare_process, process_settings
prepare_process()
print(json.dumps({"environment": dict(os.environ), **{each.name: each.state for each in process_settings()}}))
"""


def test_the_command_prepares_a_real_process_and_the_user_wins():
    found = python(PREPARE)[0]
    assert {found[name] for name in ("GLOG_minloglevel", *MALLOC)} <= {"applied", "not needed"}
    users = {"MKL_NUM_THREADS": "3", "MKL_DEBUG_CPU_TYPE": "4", "GLOG_minloglevel": "1", "MALLOC_ARENA_MAX_": "2"}
    found = python(PREPARE, **users)[0]
    assert {name: found["environment"][name] for name in users} == users
    assert {found[name] for name in ("MKL_NUM_THREADS", "M_ARENA_MAX")} == {"set in the environment"}


PADDLE = """
import json, os, paddle
from cifar_hapi import runtime
from cifar_hapi.hardware import Cpu
runtime.cpu = lambda: Cpu("a CPU", "AuthenticAMD", frozenset({"avx2"}))
runtime.usable_cores = lambda: 2

def busy_threads():
    "How many threads of this process work while matrices are multiplied, by the kernel's count of their ticks."
    ticks = lambda: {task: int(open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()[11])
                     for task in os.listdir("/proc/self/task")}
    matrix, before = paddle.rand([1500, 1500]), ticks()
    for _ in range(8):
        paddle.matmul(matrix, matrix).numpy()
    return sum(count - before.get(task, 0) >= 5 for task, count in ticks().items())
"""

needs_mkl = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="Paddle has MKL on x86-64 alone"
)


@needs_mkl
def test_paddle_loads_mkl_for_its_first_product_only_and_multiplies_with_the_threads_asked_for():
    script = """
network = paddle.nn.Sequential(paddle.nn.Linear(3, 3), paddle.nn.BatchNorm1D(3))
paddle.optimizer.Momentum(parameters=network.parameters())
found = {"loaded": [runtime._mkl_is_loaded()]}
found["states"] = {each.name: each.state for each in runtime.apply_settings()}
found["busy"] = busy_threads()
found["loaded"].append(runtime._mkl_is_loaded())
print(json.dumps(found))
"""
    found, _ = python(PADDLE + script)
    assert found["loaded"] == [False, True]
    assert found["states"] == {
        "MKL_DEBUG_CPU_TYPE": "applied",
        "MKL_NUM_THREADS": "applied",
        **dict.fromkeys(MALLOC, "applied"),
        "GLOG_minloglevel": "too late",
    }
    assert found["busy"] == 2


@needs_mkl
def test_fit_in_a_process_that_has_multiplied_applies_what_it_can_and_records_the_rest(small_cifar, tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from small_training import small_fit
found = {{"busy": [busy_threads()]}}
for name in ("a", "b"):
    run = small_fit({str(small_cifar)!r}, name, epochs=1, engine="native", verbose=1)
found["busy"].append(busy_threads())
found["settings"] = run.manifest["settings"]
found["mkl"] = os.environ.get("MKL_DEBUG_CPU_TYPE")
print(json.dumps(found))
"""
    found, out = python(f"import os; os.chdir({str(tmp_path)!r})" + PADDLE + script)
    settings = found["settings"]
    assert settings["MKL_DEBUG_CPU_TYPE"]["state"] == "too late" and found["mkl"] is None
    assert settings["GLOG_minloglevel"] == {"value": "2", "state": "too late", "why": "Paddle was loaded before"}
    assert settings["MKL_NUM_THREADS"] == {"value": "2", "state": "applied", "why": "Paddle would use 1 of 2 cores"}
    assert {settings[name]["state"] for name in MALLOC} == {"applied"}
    assert found["busy"] == [1, 2]
    assert out.count("MKL_DEBUG_CPU_TYPE=5 came too late") == 1


@pytest.mark.parametrize("call", [load, evaluate, lambda run: predict(run, np.zeros((32, 32, 3), "uint8"))])
def test_load_evaluate_and_predict_apply_what_they_can_too(monkeypatch, small_cifar, tmp_path, call):
    run, calls = small_fit(small_cifar, tmp_path, epochs=1, **{"data.limit": 100}), []
    monkeypatch.setattr("cifar_hapi.loading.apply_settings", lambda: calls.append(call))
    call(run)
    assert calls == [call]


NO_PADDLE = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "paddle" else real(name, *rest)
"""


@pytest.mark.parametrize(
    ("script", "start"),
    [
        ("import cifar_hapi; cifar_hapi.fit", "ImportError: "),
        ("from cifar_hapi.cli import run_command; sys.exit(run_command(['train']))", "error: "),
    ],
)
def test_without_paddle_one_sentence_says_what_to_install(script, start):
    done = subprocess.run([sys.executable, "-c", NO_PADDLE + script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"{start}cifar-hapi needs Paddle: pip install 'cifar-hapi[cpu]', or 'cifar-hapi[gpu]' with an NVIDIA GPU"
    )
