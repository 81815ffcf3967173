"""Runs that are interrupted and go on: by fit(resume=True), by the command line, after a kill and after a signal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from paddle.callbacks import Callback
from small_training import small_fit, write_small_cifar
from test_cli import TINY_ARGUMENTS, program
from toy import same_training

from callbacks.line_file import LineFile
from cifar_hapi import DataError, RecipeError, Run, RunError, evaluate

AVERAGED = {"averaging.decay": 0.9, "early_stopping.patience": 1, "early_stopping.restore_best": True}
RECORDED = {"bn_stats.every_steps": 3, "bn_stats.channels": "all", "bn_stats.gradients": True, "bn_stats.probe": 8}
OPTIMIZERS = {
    "momentum": {},
    "adamw": {"optimizer.name": "adamw", "optimizer.lr": 0.01, "optimizer.nesterov": False},
    "muon": {"optimizer.name": "muon", "optimizer.lr": 0.2, "optimizer.momentum": 0.6},
}


class Crash(Callback):
    """Fails in a step, counted from 1 over all epochs."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, step, logs=None):
        self.left -= 1
        if not self.left:
            raise ConnectionError("crash")


def crashed(small_cifar, path, step, **options):
    with pytest.raises(ConnectionError):
        small_fit(small_cifar, path, callbacks=[Crash(step)], **options)
    return Run(path)


def assert_same_run(one, other):
    assert same_training(one.path / "checkpoints", other.path / "checkpoints") == []
    timeless = [
        [{k: v for k, v in record.items() if "second" not in k} for record in run.history] for run in (one, other)
    ]
    assert timeless[0] == timeless[1]
    assert (one.bn_stats is None) == (other.bn_stats is None)
    assert one.bn_stats is None or one.bn_path.read_bytes() == other.bn_path.read_bytes()
    results = [{key: value for key, value in run.evaluation.items() if key != "when"} for run in (one, other)]
    assert results[0] == results[1]
    assert one.status == other.status == "finished" and one.manifest["result"] == other.manifest["result"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("more", [{}, AVERAGED | RECORDED], ids=["plain", "averaged, recorded and stopped early"])
def test_a_run_that_crashed_twice_ends_as_one_that_did_not(small_cifar, tmp_path, optimizer, more):
    options = {"epochs": 4, "checkpoint.every_steps": 2, **OPTIMIZERS[optimizer], **more}
    whole = small_fit(small_cifar, tmp_path / "whole", **options)
    assert crashed(small_cifar, tmp_path / "run", 4, **options).status == "failed"
    crashed(small_cifar, tmp_path / "run", 3, resume=True, **options)
    run = small_fit(small_cifar, tmp_path / "run", resume=True, **options)
    assert_same_run(whole, run)
    assert len(run.manifest["earlier"]) == 2 and "error" not in run.manifest


def test_the_summary_says_why_training_stopped_early(small_cifar, tmp_path, capsys):
    early = {"early_stopping.monitor": "loss", "early_stopping.mode": "max", "early_stopping.patience": 1}
    run = small_fit(small_cifar, tmp_path / "run", epochs=9, verbose=1, **early)
    said = f"loss has not got better for 1 epoch; best {run.history[0]['loss']:.4f} after epoch 1"
    assert run.manifest["stopped"] == said and f"stopped  {said}" in capsys.readouterr().out
    assert len(run.history) == 2 and run.status == "finished"


def test_resume_begins_a_run_where_there_is_none(small_cifar, tmp_path):
    run = small_fit(small_cifar, tmp_path / "run", resume=True, epochs=1)
    assert run.status == "finished" and len(run.history) == 1
    with pytest.raises(RecipeError, match="resume needs run_dir"):
        small_fit(small_cifar, None, resume=True)


def test_a_complete_run_says_so_and_more_epochs_extend_it(small_cifar, tmp_path, capsys):
    first = small_fit(small_cifar, tmp_path / "run", epochs=1)
    again = small_fit(small_cifar, tmp_path / "run", epochs=1, resume=True, verbose=1)
    assert f"run {first.path} is complete: 1 epoch;" in capsys.readouterr().out
    assert again.manifest == first.manifest and again.model is not None
    longer = small_fit(small_cifar, tmp_path / "run", epochs=3, resume=True)
    assert [record["epoch"] for record in longer.history] == [1, 2, 3] and longer.recipe.epochs == 3
    with pytest.raises(RecipeError, match=r"epochs = 2: run .* has 3 behind it"):
        small_fit(small_cifar, tmp_path / "run", epochs=2, resume=True)


def test_when_it_is_saved_may_change_and_the_weights_are_the_same(small_cifar, tmp_path):
    whole = small_fit(small_cifar, tmp_path / "whole", epochs=2)
    crashed(small_cifar, tmp_path / "run", 7, epochs=2)
    run = small_fit(small_cifar, tmp_path / "run", epochs=2, resume=True, **{"checkpoint.every_steps": 2})
    assert run.recipe.checkpoint.every_steps == 2 and "step-00000008" in run.checkpoints.names()
    assert same_training(whole.path / "checkpoints", run.path / "checkpoints") == []


def test_another_recipe_is_refused_with_its_keys_unless_allowed(small_cifar, tmp_path):
    small_fit(small_cifar, tmp_path / "run", epochs=1)
    changes = {"optimizer.lr": 0.123, "augment.flip": "none"}
    said = r"augment\.flip \('alternating', now 'none'\), optimizer\.lr \(.*, now 0\.123\)"
    with pytest.raises(RunError, match=said):
        small_fit(small_cifar, tmp_path / "run", epochs=2, resume=True, **changes)
    run = small_fit(small_cifar, tmp_path / "run", epochs=2, resume=True, allow_changes=True, **changes)
    assert run.recipe.optimizer.lr == 0.123 and len(run.history) == 2


def test_fewer_epochs_than_planned_are_another_recipe(small_cifar, tmp_path, capsys):
    class Leave(Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    options = {"epochs": 6, "checkpoint.every_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        small_fit(small_cifar, tmp_path / "run", callbacks=[Leave()], **options)
    with pytest.raises(RunError, match=r"its recipe was another: epochs \(6, now 3\); --allow-changes"):
        small_fit(small_cifar, tmp_path / "run", resume=True, **{**options, "epochs": 3})
    changed = {**options, "epochs": 3, "allow_changes": True, "verbose": 1}
    run = small_fit(small_cifar, tmp_path / "run", resume=True, **changed)
    assert [record["epoch"] for record in run.history] == [1, 2, 3]
    last = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("resumed"))
    assert last.endswith(("epoch 2, its end is next", "epoch 3, step 1 is next")), last


def test_other_data_is_refused(small_cifar, tmp_path):
    small_fit(small_cifar, tmp_path / "run", epochs=1)
    write_small_cifar(tmp_path / "other", seed=5)
    with pytest.raises(DataError, match=r"not the data of run .*train.* differ"):
        small_fit(tmp_path / "other", tmp_path / "run", epochs=2, resume=True)


@pytest.mark.parametrize("data", ["auto", "cifar10"])
def test_a_run_finds_its_data_where_it_was_though_the_environment_says_no_more(
    small_cifar, tmp_path, monkeypatch, data
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CIFAR_HAPI_DATA", str(small_cifar))
    run = small_fit(None, tmp_path / "run", data=data, epochs=1)
    monkeypatch.delenv("CIFAR_HAPI_DATA")
    assert evaluate(run)["images"] == 120
    assert small_fit(None, tmp_path / "run", data=data, epochs=2, resume=True).status == "finished"


def test_a_run_of_cifar_does_not_go_on_with_generated_images(small_cifar, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise DataError("no mirror answers")

    monkeypatch.setattr("cifar_hapi.data.sources.fetch", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = shutil.copytree(small_cifar, tmp_path / "here")
    monkeypatch.setenv("CIFAR_HAPI_DATA", str(here))
    small_fit(None, tmp_path / "run", data="auto", epochs=1)
    monkeypatch.delenv("CIFAR_HAPI_DATA")
    shutil.rmtree(here)
    with pytest.raises(DataError, match="no mirror answers"):
        small_fit(None, tmp_path / "run", data="auto", epochs=2, resume=True, allow_changes=True)


def test_a_checkpoint_of_another_network_is_an_error_of_one_line(small_cifar, tmp_path):
    small_fit(small_cifar, tmp_path / "run", epochs=1)
    with pytest.raises(RunError, match=r"is of another network: .*here \[.*; and \d+ more"):
        small_fit(small_cifar, tmp_path / "run", epochs=2, resume=True, allow_changes=True, **{"network.width": 4})


def test_a_refused_resume_leaves_the_run_as_it_was(small_cifar, tmp_path):
    small_fit(small_cifar, tmp_path / "run", epochs=1)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(RunError, match="is of another optimizer: Momentum, here Adam"):
        small_fit(
            small_cifar,
            tmp_path / "run",
            epochs=2,
            resume=True,
            allow_changes=True,
            **{"optimizer.name": "adam", "optimizer.nesterov": False},
        )
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.parametrize("gone", [True, False], ids=["removed", "damaged"])
def test_without_an_intact_checkpoint_a_run_does_not_start_anew(small_cifar, tmp_path, gone):
    crashed(small_cifar, tmp_path / "run", 8)
    history = (tmp_path / "run" / "history.jsonl").read_bytes()
    for folder in (tmp_path / "run" / "checkpoints").glob("step-*"):
        shutil.rmtree(folder) if gone else (folder / "MANIFEST.json").write_text("")
    with warnings.catch_warnings(record=True), pytest.raises(RunError, match="has no intact checkpoint to go on from"):
        small_fit(small_cifar, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "history.jsonl").read_bytes() == history


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(small_cifar, tmp_path):
    whole = small_fit(small_cifar, tmp_path / "whole")
    crashed(small_cifar, tmp_path / "run", 8)
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # as after a kill while the first was being written
    run = small_fit(small_cifar, tmp_path / "run", resume=True)
    assert_same_run(whole, run)


def test_early_stopping_without_validation_images_is_refused_before_training(small_cifar, tmp_path):
    with pytest.raises(RecipeError, match=r"early_stopping.monitor = eval_loss: needs validation images"):
        small_fit(small_cifar, tmp_path / "run", **{"early_stopping.patience": 1, "data.val_fraction": 0.0})


def test_a_history_that_cannot_be_written_is_warned_of_and_whole_again_later(small_cifar, tmp_path, monkeypatch):
    append, failing = LineFile.append, [True]

    def fail_once(self, line, synced=False):
        if self.path.name == "history.jsonl" and failing:
            failing.pop()
            raise OSError(28, "No space left on device")
        append(self, line, synced)

    monkeypatch.setattr(LineFile, "append", fail_once)
    with pytest.warns(UserWarning, match=r"history.jsonl: epoch 1 not written: No space left on device"):
        run = small_fit(small_cifar, tmp_path / "run")
    assert [record["epoch"] for record in run.history] == [1, 2] and run.status == "finished"


def started(folder, small_cifar):
    """`cifar-hapi train` in a process of its own, in its fourth epoch: then the checkpoint of the first is on disk."""
    options = [
        "--data",
        "cifar10",
        "--data-dir",
        small_cifar,
        "--epochs",
        "60",
        "--batch-size",
        "50",
        "--run-dir",
        folder,
    ]
    process = program("train", "quick", *options, *TINY_ARGUMENTS)
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            return process
    raise AssertionError(process.communicate())


def test_one_who_interrupts_the_evaluation_is_told_how_it_goes_on(small_cifar, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cifar_hapi.training.record_evaluation", interrupt)
    with pytest.raises(KeyboardInterrupt):
        small_fit(small_cifar, tmp_path / "run", verbose=1)
    assert f"`cifar-hapi resume {tmp_path / 'run'}` goes on from here" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_in_a_checkpoint_and_an_interrupted_run(small_cifar, tmp_path, number, code):
    process = started(tmp_path / "run", small_cifar)
    begin = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    output = out + err
    assert process.returncode == code and time.monotonic() - begin < 10, output
    assert number != signal.SIGINT or err.splitlines()[-1] == "interrupted"
    assert "saving after this step" in output and "Traceback" not in output
    assert f"`cifar-hapi resume {tmp_path / 'run'}` goes on from here" in output
    run = Run(tmp_path / "run")
    assert run.status == "interrupted" and len(run.history) >= 2
    saved = run.checkpoints.read(run.checkpoints.labelled("latest"))
    assert saved.state["step"] >= run.history[-1]["step"]


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_second_ctrl_c_ends_at_once_and_harms_nothing(small_cifar, tmp_path):
    process = started(tmp_path / "run", small_cifar)
    process.send_signal(signal.SIGINT)
    assert any("once more ends it at once" in line for line in process.stderr)  # read up to that line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in err
    run = Run(tmp_path / "run")
    assert run.status == "interrupted" and next(run.checkpoints.intact())[1].state["step"] > 0


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_killed_run_is_interrupted_and_the_command_resumes_it(small_cifar, tmp_path):
    process = started(tmp_path / "run", small_cifar)
    assert Run(tmp_path / "run").status == "running"
    second = program("resume", tmp_path / "run")
    assert "another process is writing to it" in second.communicate(timeout=60)[1] and second.returncode == 4
    process.kill()
    process.communicate()
    killed = Run(tmp_path / "run")
    assert killed.status == "interrupted"
    done = len(killed.history)
    killed.update(seconds=killed.manifest["seconds"] + 1000)  # to be told from what the rest takes
    output, err = program("resume", tmp_path / "run", "--epochs", done + 1, "--allow-changes").communicate(timeout=120)
    assert "resumed" in output and "after step" in output, err
    run = Run(tmp_path / "run")
    assert len(run.history) == done + 1 and run.manifest["seconds"] > killed.manifest["seconds"]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_trainings_killed_at_random_moments_end_with_the_bits_of_one_that_was_not():
    command = [sys.executable, "-W", "ignore", "-m", "tests.killed_training", "--kills", "5"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [json.loads(line)["kills"] >= 5 for line in done.stdout.splitlines()] == [True, True]
