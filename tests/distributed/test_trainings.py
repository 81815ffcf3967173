"""Real processes, started by Paddle's launcher: they train and evaluate as one would, and one refusal ends them all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_training import TINY, write_small_cifar

from callbacks import read_history
from cifar_hapi import Run
from tests.launched.killed import begun, train_command
from tests.launched.trainings import OPTIONS, data_of, interrupted, resumed, synchronised, whole

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "launched" / "trainings.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Paddle's launcher with gloo is for Linux")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Of the trainings by 1, 2 and 4 processes, by their number; that of 1 is made in this process."""
    folders = {count: tmp_path_factory.mktemp(f"processes-{count}") for count in (1, 2, 4)}
    for folder in folders.values():
        write_small_cifar(folder / "data", train=300, test=97)
    write_small_cifar(folders[2] / "other data", train=300, test=97, seed=1)
    alone = {"losses": [], "synchronised": []}
    whole(folders[1], alone["losses"])
    synchronised(folders[1], alone["synchronised"])
    (folders[1] / "rank-0.json").write_text(json.dumps(alone))
    interrupted(folders[2], "of one")
    for count in (2, 4):
        launch(count, folders[count])
    return folders


def launch(count: int, folder: Path) -> None:
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(count), "--log_dir", str(folder / "log")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(PROGRAM), str(folder)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=180
    )
    logs = "".join(file.read_text()[-2000:] for file in (folder / "log").glob("workerlog.*"))
    assert done.returncode == 0, done.stderr[-2000:] + logs


def seen(folders, count):
    return [json.loads((folders[count] / f"rank-{rank}.json").read_text()) for rank in range(count)]


@pytest.mark.parametrize("count", [2, 4])
def test_every_step_has_the_loss_that_it_has_in_one_process(folders, count):
    (alone,), together = seen(folders, 1), seen(folders, count)
    assert len(alone["losses"]) == 8 and np.ptp(alone["losses"]) > 0.1  # they move
    for each in together:
        np.testing.assert_allclose(each["losses"], alone["losses"], rtol=1e-5)
        assert each["losses"] == together[0]["losses"]
    ours, theirs = (load_file(folders[n] / "whole" / "checkpoints" / latest(n, folders)) for n in (1, count))
    for name, tensor in ours.items():
        np.testing.assert_allclose(theirs[name], tensor, atol=2e-5, err_msg=name)


def latest(count, folders, run="whole"):
    return Path((folders[count] / run / "checkpoints" / "latest").read_text().strip()) / "weights.safetensors"


@pytest.mark.parametrize("count", [2, 4])
def test_with_synchronised_batch_norm_too(folders, count):
    (alone,), together = seen(folders, 1), seen(folders, count)
    assert len(alone["synchronised"]) == 8 and np.ptp(alone["synchronised"]) > 0.1
    for each in together:
        np.testing.assert_allclose(each["synchronised"], alone["synchronised"], rtol=1e-4)
    ours, theirs = (
        load_file(folders[n] / "synchronised" / "checkpoints" / latest(n, folders, "synchronised")) for n in (1, count)
    )
    assert theirs.keys() == ours.keys() and sum(name.endswith("_variance") for name in ours) == 19
    for name, tensor in ours.items():
        np.testing.assert_allclose(theirs[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("count", [2, 4])
def test_the_history_is_that_of_one_process(folders, count):
    timed = ("seconds", "images_per_second")
    histories = [read_history(folders[n] / "whole" / "history.jsonl") for n in (1, count)]
    for alone, together in zip(*histories, strict=True):
        assert list(together) == list(alone)
        for key in alone.keys() - timed:
            assert together[key] == pytest.approx(alone[key], rel=1e-5), key


@pytest.mark.parametrize("count", [2, 4])
def test_the_evaluation_is_that_of_one_process(folders, count):
    alone, together = (Run(folders[n] / "whole") for n in (1, count))
    assert list(together.evaluation) == list(alone.evaluation)
    assert together.evaluation["confusion"] == alone.evaluation["confusion"]
    assert together.evaluation["loss"] == pytest.approx(alone.evaluation["loss"], rel=1e-5)
    ours, theirs = (load_file(run.answers_path) for run in (alone, together))
    assert len(theirs["labels"]) == 97
    for name in ("labels", "classes"):
        assert theirs[name].tolist() == ours[name].tolist() and theirs[name].dtype == ours[name].dtype
    for name in ("probabilities", "of_label"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4)


def test_all_ranks_are_told_what_the_evaluation_found(folders):
    ranks = seen(folders, 4)
    assert all(each["trained"] == each["evaluated"] == ranks[0]["evaluated"] for each in ranks)
    assert ranks[0]["evaluated"] == Run(folders[4] / "whole").evaluation


def test_the_number_of_processes_is_recorded(folders):
    assert [Run(folders[n] / "whole").manifest["processes"] for n in folders] == [1, 2, 4]
    assert [each["processes"] for each in seen(folders, 4)] == [4] * 4


def test_only_the_first_rank_writes(folders):
    for count in (2, 4):
        first, *others = seen(folders, count)
        assert any(path.endswith("history.jsonl") for path in first["written"])
        assert [each["written"] for each in others] == [[]] * (count - 1)
    for file in folders[2].glob("log/workerlog.1"):
        assert "epoch" not in file.read_text()


def test_running_statistics_are_the_first_ranks(folders):
    first, second = seen(folders, 2)
    saved = load_file(folders[2] / "norm" / "checkpoints" / "step-00000008" / "weights.safetensors")
    means = [tensor for name, tensor in saved.items() if name.endswith("_mean")]
    assert len(means) == 19 and first["statistics"] == second["statistics"]
    assert {tuple(mean.tolist()) for mean in means} == set(map(tuple, first["statistics"]))


def test_a_run_of_two_processes_goes_on_in_one(folders):
    """It was interrupted after step 6 of 8."""
    begun = Run(folders[2] / "of two")
    assert [each["interrupted"] for each in seen(folders, 2)] == ["interrupted"] * 2
    assert begun.status == "interrupted" and begun.checkpoints.names()[-1] == "step-00000006"
    assert_as_if_never_interrupted(resumed(folders[2], "of two"), folders, processes=[2, 1])


def test_a_run_of_one_process_goes_on_in_two(folders):
    assert [each["resumed"] for each in seen(folders, 2)] == ["finished"] * 2
    assert_as_if_never_interrupted(Run(folders[2] / "of one"), folders, processes=[1, 2])


def assert_as_if_never_interrupted(run, folders, processes):
    assert [each["processes"] for each in (*run.manifest["earlier"], run.manifest)] == processes
    straight = read_history(folders[1] / "whole" / "history.jsonl")
    assert run.status == "finished" and len(run.history) == len(straight)
    for key in ("step", "loss", "acc", "eval_loss", "eval_acc"):
        assert run.history[-1][key] == pytest.approx(straight[-1][key], rel=1e-5)


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("exists", "RunError: {rank}run {folder}/whole: exists already"),
        ("recipe", "RunError: rank 1: another recipe than rank 0's: optimizer.lr is 0.2, there 0.1"),
        ("versions", "RunError: rank 1: another installation than rank 0's: paddle is '0.1'"),
        ("data", "RunError: rank 1: another data set than rank 0's: train is "),
        ("one", "DataError: rank 1: data.dir = '{folder}/nowhere'"),
    ],
)
def test_what_one_rank_is_refused_all_are(folders, case, error):
    first, second = (each["refusals"][case] for each in seen(folders, 2))
    where = {"folder": folders[2]}
    assert first.startswith(error.format(rank="", **where))
    assert second.replace(" (told)", "").startswith(error.format(rank="rank 0: ", **where)) and " (told)" in second
    assert not (folders[2] / "new").exists()


def test_after_the_death_of_a_rank_all_begin_again_and_end_with_the_same_bits(folders):
    """The training `whole`; rank 1 is killed in its sixth step of 8."""
    folder, more = folders[2], {"data.source": "cifar10", "epochs": 2, "checkpoint.every_steps": 5}
    processes = ["--nproc", "2", "--max-restart", "1"]
    command = train_command(data_of(folder), "disturbed", {**TINY, **OPTIONS, **more}, *processes)
    out, err = begun(folder, command, rank=1, step=6).communicate(timeout=300)
    # The launcher tells rank 0 to end, too, which it may hear before it knows that rank 1 is gone.
    lost, named, again = [line for line in err.splitlines() if line not in ("", "saving after this step")]
    assert lost.startswith("error: rank 0: waited for ") and "which has gone away" in lost
    assert lost.endswith("; `cifar-hapi resume disturbed` goes on from the last checkpoint")
    assert (named, again) == ("rank 1: ended by SIGKILL", "starting all processes again: 1 of 1")
    assert "resumed  after step 5: epoch 2, step 2 is next" in out.splitlines()
    disturbed, straight = (Run(folder / name) for name in ("disturbed", "whole"))
    assert (disturbed.status, disturbed.manifest["processes"]) == ("finished", 2)
    ours, theirs = (load_file(folder / run / "checkpoints" / latest(2, folders, run)) for run in ("disturbed", "whole"))
    assert ours.keys() == theirs.keys() and all((ours[name] == tensor).all() for name, tensor in theirs.items())
    for mine, others in zip(disturbed.history, straight.history, strict=True):
        assert [mine[key] for key in ("loss", "eval_loss")] == [others[key] for key in ("loss", "eval_loss")]
