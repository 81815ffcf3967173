"""The callbacks alone, on a paddle.Model that is not ours: LeNet on images of noise. A few seconds on a CPU."""

import numpy as np
import paddle

from callbacks import Checkpoint, CheckpointFolder, History, Progress, TerminateOnNaN


class Noise(paddle.io.Dataset):
    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return rng.random((1, 28, 28), dtype=np.float32), np.array([index % 10])

    def __len__(self):
        return 256


if __name__ == "__main__":
    model = paddle.Model(paddle.vision.models.LeNet())
    model.prepare(
        paddle.optimizer.Adam(parameters=model.parameters()),
        paddle.nn.CrossEntropyLoss(),
        paddle.metric.Accuracy(),
    )
    model.fit(
        Noise(),
        Noise(),
        batch_size=32,
        epochs=2,
        verbose=0,
        callbacks=[
            TerminateOnNaN(),
            History("lenet/history.jsonl"),
            Checkpoint("lenet/checkpoints", monitor="eval_acc"),
            Progress(),
        ],
    )
    checkpoints = CheckpointFolder("lenet/checkpoints")
    weights, state = checkpoints.read(checkpoints.labelled("best"))
    print(state["epoch"], state["metrics"], sorted(weights)[:2])
