"""A training by two processes, each with data of its own; what each of them saw goes to a file of its rank.

python -m paddle.distributed.launch --nproc_per_node 2 tests/launched/two_processes.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
from paddle import distributed

from callbacks import BatchNormStats, Checkpoint, EarlyStopping, History, LambdaCallback, ReduceLROnPlateau


def main(folder: Path) -> None:
    distributed.init_parallel_env()
    rank = distributed.get_rank()
    paddle.seed(0)
    model = paddle.Model(paddle.nn.Sequential(paddle.nn.Linear(4, 8), paddle.nn.BatchNorm1D(8), paddle.nn.Linear(8, 3)))
    model.prepare(
        paddle.optimizer.Momentum(0.1, parameters=model.parameters()),
        paddle.nn.CrossEntropyLoss(),
        paddle.metric.Accuracy(),
    )
    rng = np.random.default_rng(rank)
    batches = [[rng.standard_normal((8, 4)).astype("float32"), rng.integers(0, 3, (8, 1))] for _ in range(3)]
    losses = iter([[3, 2, 2, 2, 2, 2], [9, 8, 7, 6, 5, 4]][rank])  # rank 1 alone would never stop

    def forge(logs: dict) -> None:
        logs["loss"] = [next(losses)]

    stopping = EarlyStopping("eval_loss", patience=2, restore_best=True)
    plateau = ReduceLROnPlateau("eval_loss", factor=0.5, patience=1)
    history = History(folder / f"history-{rank}.jsonl")
    stats = BatchNormStats(folder / f"bn-{rank}.jsonl", probe=batches[0], gradients=True)
    every = [LambdaCallback(on_eval_end=forge), stopping, plateau, history, stats]
    checkpoint = Checkpoint(folder / f"checkpoints-{rank}", callbacks=every)
    model.fit(batches, batches, epochs=6, verbose=0, callbacks=[*every, checkpoint])
    seen = {"stopped": stopping.stopped_epoch, "rate": model._optimizer.get_lr(), "epochs": len(history.records)}
    seen |= {"best_epoch": stopping.best_epoch}
    (folder / f"rank-{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
