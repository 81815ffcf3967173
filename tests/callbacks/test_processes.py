"""Two real processes: they decide alike, and one of them writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from callbacks import load_bn_stats

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="Paddle's launcher with gloo is for Linux")
def test_all_ranks_decide_as_the_first_which_alone_writes(tmp_path):
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launch, str(ROOT / "tests" / "launched" / "two_processes.py"), str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    logs = "".join(file.read_text()[-2000:] for file in (tmp_path / "log").glob("workerlog.*"))
    assert done.returncode == 0, done.stderr[-2000:] + logs
    seen = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert seen == [{"stopped": 3, "rate": 0.1 * 0.5**2, "epochs": 4, "best_epoch": 1}] * 2
    assert (tmp_path / "history-0.jsonl").exists() and (tmp_path / "checkpoints-0" / "latest").exists()
    records = load_bn_stats(tmp_path / "bn-0.jsonl")
    assert len(records) == 5 and np.isfinite(records["1", "scale_gradient"][1:]).all()
    assert not (tmp_path / "bn-1.jsonl").exists()
    assert not (tmp_path / "history-1.jsonl").exists() and not (tmp_path / "checkpoints-1").exists()
