"""Two launchers, each of which stands for a machine: when one is gone, the other ends and says so.

How one launcher's training goes on after a death is in test_trainings.py.
"""

from __future__ import annotations

import socket
import sys
import time

import pytest
from small_training import TINY

from cifar_hapi import Run
from tests.launched.killed import begun, train_command

WITHIN = 60  # seconds from the death to the end of all
OPTIONS = {**TINY, "data.source": "cifar10", "epochs": 2, "batch_size": 100, "checkpoint.every_steps": 3}


@pytest.mark.skipif(sys.platform != "linux", reason="Paddle's launcher with gloo is for Linux")
def test_the_death_of_one_machine_ends_the_other(tmp_path, small_cifar):
    """Rank 0 is killed, at which all have met, and which writes the run."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{chosen.getsockname()[1]}"
    training = train_command(small_cifar, "run", OPTIONS)
    launchers = []
    for rank in range(2):
        nodes = ["--nnodes", "2", "--rank", str(rank), "--master", master, "--nproc_per_node", "1"]
        launcher = [
            sys.executable,
            "-m",
            "paddle.distributed.launch",
            *nodes,
            "--log_dir",
            str(tmp_path / f"log{rank}"),
        ]
        launchers.append(begun(tmp_path, [*launcher, *training], rank=0, step=5))
    deadline = time.monotonic() + 200 + WITHIN
    codes = [(each.communicate(timeout=deadline - time.monotonic()), each.returncode)[1] for each in launchers]
    ended, killed = time.time(), tmp_path / "killed"
    assert killed.exists(), "the training did not come to its fifth step"
    assert ended - killed.stat().st_mtime < WITHIN
    assert codes[1] == 5
    said = (tmp_path / "log1" / "workerlog.0").read_text().splitlines()
    (lost,) = [line for line in said if line.startswith("error: ")]
    assert lost.startswith("error: rank 1: waited for ") and "which has gone away" in lost
    assert lost.endswith("; `cifar-hapi resume run` goes on from the last checkpoint")
    assert Run(tmp_path / "run").status == "interrupted"
    assert Run(tmp_path / "run").checkpoints.names()[-1] == "step-00000003"
