"""`cifar-hapi train --nproc`: what is printed, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from small_training import TINY, small_fit

from cifar_hapi import Run
from cifar_hapi.cli import run_command
from cifar_hapi.distributed import launching
from cifar_hapi.errors import RecipeError
from cifar_hapi.runtime import check_device

ROOT = Path(__file__).parents[2]
QUICK = {**TINY, "data.source": "cifar10", "epochs": 1000, "batch_size": 100}
OPTIONS = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Paddle's launcher with gloo is for Linux")


def command(folder, small_cifar, *more, path=()):
    """The command begun in an empty folder."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path)))}
    train = ["-m", "cifar_hapi", "train", "quick", "--data-dir", str(small_cifar), "--no-report", *OPTIONS]
    return subprocess.Popen(
        [sys.executable, *train, "--nproc", "2", "--run-dir", "run", *more],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_to_the_second_epoch(training):
    """The lines until then."""
    out = []
    for line in training.stdout:
        out.append(line)
        if line.startswith("epoch 2/1000"):
            break
    return out


@on_linux
def test_sigterm_ends_in_a_checkpoint_and_the_first_rank_alone_is_seen(tmp_path, small_cifar):
    training = command(tmp_path, small_cifar)
    out = read_to_the_second_epoch(training)
    training.send_signal(signal.SIGTERM)
    rest, err = training.communicate(timeout=120)
    assert training.returncode == 128 + signal.SIGTERM, err
    assert [line.split()[0] for line in out].count("data") == 1
    assert any(line.startswith("engine") and line.endswith(", on cpu, by 2 processes\n") for line in out)
    assert rest.splitlines()[-1] == "saved    `cifar-hapi resume run` goes on from here"
    assert err == "\nsaving after this step\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    run = Run(tmp_path / "run")
    assert (run.status, run.manifest["processes"]) == ("interrupted", 2)
    assert int(run.checkpoints.names()[-1].removeprefix("step-")) > 10  # of 5 an epoch


@on_linux
def test_processes_end_with_a_checkpoint_when_the_command_is_killed(tmp_path, small_cifar):
    training = command(tmp_path, small_cifar)
    read_to_the_second_epoch(training)
    training.kill()
    out, _ = training.communicate(timeout=120)  # until the last process that has these pipes has ended
    assert "saved    `cifar-hapi resume run` goes on from here" in out
    run = Run(tmp_path / "run")
    assert run.status == "interrupted" and int(run.checkpoints.names()[-1].removeprefix("step-")) > 10


@on_linux
def test_processes_end_with_a_checkpoint_when_the_launcher_is_killed(tmp_path, small_cifar):
    training = command(tmp_path, small_cifar)
    read_to_the_second_epoch(training)
    (launcher,) = Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()
    os.kill(int(launcher), signal.SIGKILL)
    out, err = training.communicate(timeout=120)
    assert training.returncode == 1 and "saved    `cifar-hapi resume run` goes on from here" in out
    assert "Paddle's launcher was ended by SIGKILL; so are its processes" in err
    assert Run(tmp_path / "run").status == "interrupted"


@on_linux
def test_a_signal_while_the_launcher_starts_is_not_lost():
    def start():
        os.kill(os.getpid(), signal.SIGTERM)
        return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])

    assert launching._run_passing_signals_on(start) == (-signal.SIGTERM, signal.SIGTERM)


@on_linux
def test_a_rank_that_is_killed_is_named(tmp_path, small_cifar):
    (tmp_path / "site").mkdir()
    killing = "import os\nif os.environ.get('PADDLE_TRAINER_ID') == '1':\n    os.kill(os.getpid(), 9)\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(killing)
    training = command(tmp_path, small_cifar, path=[tmp_path / "site"])
    out, err = training.communicate(timeout=120)
    assert (training.returncode, out, err) == (5, "", "rank 1: ended by SIGKILL\n")


@on_linux
def test_the_terminal_is_lent_in_however_deep_a_folder(tmp_path):
    place = tmp_path / ("a" * 100) / ("b" * 100) / "terminal"
    place.parent.mkdir(parents=True)
    lent = launching._lent_terminal(place)
    with lent, socket.socket(socket.AF_UNIX) as connection, launching._named_shortly(place) as name:
        connection.connect(name)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
    assert [os.fstat(each).st_ino for each in descriptors] == [os.fstat(number).st_ino for number in (1, 2)]
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_recipe_that_cannot_be_is_refused_before_anything_starts(monkeypatch, capsys):
    monkeypatch.setattr(launching, "launch", None)
    assert run_command(["train", "quik", "--nproc", "2"]) == 2
    assert "did you mean quick?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("processes", "batch", "said"),
    [
        ("17", "100", "--nproc 17: at most 16 here, 8 for each usable core"),
        ("5", "4", "--nproc 5: a batch of 4 has no"),
    ],
)
def test_more_processes_than_can_be_are_refused_before_anything_starts(monkeypatch, capsys, processes, batch, said):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(launching, "usable_cores", lambda: 2)
    monkeypatch.setattr(launching, "_launch_once", None)
    assert run_command(["train", "quick", "--nproc", processes, "--set", f"batch_size={batch}"]) == 2
    assert said in capsys.readouterr().err


def test_a_run_that_exists_is_refused_before_anything_starts(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(launching, "launch", None)
    (tmp_path / "run.json").write_text("{}")
    assert run_command(["train", "quick", "--nproc", "2", "--run-dir", str(tmp_path)]) == 4
    assert "exists already; `cifar-hapi resume" in capsys.readouterr().err


def test_a_restart_is_not_left_to_find_the_newest_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(launching, "launch", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "run.json").write_text("{}")
    assert run_command(["resume", "--nproc", "2", "--max-restart", "1"]) == 2
    assert "--max-restart needs RUN" in capsys.readouterr().err


def test_other_systems_are_told_that_it_is_for_linux(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert run_command(["train", "quick", "--nproc", "2"]) == 2
    assert "Paddle trains by several processes on Linux, this is darwin" in capsys.readouterr().err


def test_several_processes_cannot_share_one_gpu(monkeypatch):
    monkeypatch.setattr("cifar_hapi.runtime._chosen_device", lambda device: device)
    check_device("gpu:1")
    check_device("gpu", 2)
    with pytest.raises(RecipeError, match="2 processes take a GPU each; say gpu"):
        check_device("gpu:1", 2)


@pytest.mark.parametrize(
    "arguments", [["--nproc", "2", "train", "quick"], ["train", "--nproc=2", "quick", "--max-restart", "1"]]
)
def test_processes_are_not_to_start_others(arguments):
    assert launching._without_ours(arguments) == ["train", "quick"]


@pytest.mark.parametrize(
    ("said", "processes", "threads"),
    [
        ({}, 2, "4"),
        ({}, 3, "2"),
        ({}, 9, "1"),
        ({"OMP_NUM_THREADS": "3"}, 2, None),
        ({"MKL_NUM_THREADS": "3"}, 2, None),
    ],
)
def test_cores_are_shared_out_unless_the_user_says_how_many_threads(monkeypatch, said, processes, threads):
    monkeypatch.setattr(launching, "usable_cores", lambda: 8)
    for name in ("FLAGS_paddle_num_threads", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert launching._environment(processes, "auto").get("MKL_NUM_THREADS") == threads


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("epoch 1\nerror: one\nerror: two\n\n", "error: two"),
        ("Traceback (most recent call last):\n  x\nValueError: of old\n\n", "ValueError: of old"),
        ("warning: of no weight\n", ""),
    ],
)
def test_the_last_word_of_a_failed_rank(tmp_path, log, said):
    (tmp_path / "workerlog.1").write_text(log)
    assert launching._last_word(tmp_path / "workerlog.1") == said


RAISED = "Traceback (most recent call last):\n  File x\n"
KILLED = "LAUNCH ERROR\nContainer rank {} status failed cmd ['python', '-m'] code -9 log logs/workerlog.{}\n"
WAITED = "error: rank {}: waited for another process, which has gone away; resume\n"


@pytest.mark.parametrize(
    ("launcher", "logs", "code", "told"),
    [
        (KILLED.format(1, 1), {2: WAITED.format(2)}, 5, ["rank 1: ended by SIGKILL"]),
        (
            KILLED.format(0, 0),
            {1: WAITED.format(1), 2: WAITED.format(2)},
            5,
            ["rank 0: ended by SIGKILL", WAITED.format(1).rstrip()],
        ),
        ("", {1: "error: no room\n", 2: WAITED.format(2)}, 1, ["rank 1: error: no room"]),
        (f"{RAISED}IndexError: no card 2\n", {}, 1, ["Paddle's launcher: IndexError: no card 2"]),
        (f"{RAISED}OSError: old\n", {0: "error: no Paddle\n"}, 1, ["rank 0: error: no Paddle"]),
        (WAITED.format(1), {0: "", 1: WAITED.format(1)}, 1, []),
        ("LAUNCH INFO\n", {}, 1, []),
    ],
)
def test_who_has_failed_is_told_once(tmp_path, capsys, launcher, logs, code, told):
    (tmp_path / "launcher").write_text(launcher)
    for rank, text in logs.items():
        (tmp_path / f"workerlog.{rank}").write_text(text)
    assert launching._failure(tmp_path, 3, 1) == code
    assert capsys.readouterr().err.splitlines() == told


def test_one_process_never_communicates(tmp_path, small_cifar, monkeypatch):
    for name in ("all_reduce", "broadcast", "all_gather", "all_gather_object", "init_parallel_env"):
        monkeypatch.setattr(f"paddle.distributed.{name}", None)
    assert small_fit(small_cifar, tmp_path / "run", epochs=1).manifest["processes"] == 1


@pytest.mark.parametrize(
    ("codes", "restarts", "code", "again"),
    [
        ([5, 0], 2, 0, 1),
        ([5, 5, 5], 2, 5, 2),
        ([5], 0, 5, 0),
        ([2], 3, 2, 0),
        ([5, 143], 3, 143, 1),
    ],
)
def test_processes_begin_again_when_one_is_lost_and_for_nothing_else(monkeypatch, capsys, codes, restarts, code, again):
    seen, left = [], list(codes)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(launching, "_launch_once", lambda arguments, *_: seen.append(arguments) or left.pop(0))
    assert launching.launch(["train"], 2, restarts=restarts, again=["--resume"]) == code
    assert seen == [["train"], *[["train", "--resume"]] * again] and not left
    told = [f"starting all processes again: {number} of {restarts}" for number in range(1, again + 1)]
    assert capsys.readouterr().err.splitlines() == told


@pytest.mark.parametrize("run_dir", [[], ["--run-dir", "mine"]])
def test_a_training_that_may_begin_again_has_a_run_to_find(monkeypatch, run_dir):
    seen = {}
    monkeypatch.setattr(
        "cifar_hapi.cli.launch", lambda arguments, *_, again: seen.update(found=(arguments, again)) or 0
    )
    assert run_command(["train", "quick", "--nproc", "2", *run_dir]) == 0
    (arguments, again) = seen["found"]
    place = arguments.index("--run-dir")
    assert again == ["--resume"] and arguments.count("--run-dir") == 1
    assert arguments[place + 1] == "mine" if run_dir else arguments[place + 1].startswith("runs/quick-")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "quick", "--max-restart", "1"], "--max-restart needs --nproc"),
        (["train", "quick", "--resume"], "--resume needs --run-dir"),
    ],
)
def test_options_that_need_others(arguments, told, capsys):
    assert run_command(arguments) == 2
    assert told in capsys.readouterr().err


def test_train_resume_goes_on_or_begins(tmp_path, small_cifar, monkeypatch, capsys):
    monkeypatch.setattr("cifar_hapi.cli.prepare_process", lambda: None)
    train = ["train", "quick", "--data-dir", str(small_cifar), "--run-dir", str(tmp_path / "run"), "--no-report"]
    settings = [part for key, value in {**QUICK, "epochs": 1}.items() for part in ("--set", f"{key}={value}")]
    for _ in range(2):
        assert run_command([*train, *settings, "--resume"]) == 0
    assert run_command([*train, *settings]) == 4
    assert len(Run(tmp_path / "run").history) == 1 and "exists already" in capsys.readouterr().err
