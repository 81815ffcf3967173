"""The callbacks alone, on a paddle.Model that is not ours: LeNet on images of noise. A few seconds on a CPU.

Stop it with Ctrl-C, or kill it, and start it again: it goes on at the epoch where it was.
"""

import numpy as np
import paddle

from callbacks import Checkpoint, EarlyStopping, ExponentialMovingAverage, History, Progress, TerminateOnNaN

EPOCHS = 4


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
    callbacks = [
        TerminateOnNaN(),
        ExponentialMovingAverage(0.9),
        EarlyStopping("eval_loss", patience=3, restore_best=True),
        History("lenet/history.jsonl"),
        Progress(),
    ]
    checkpoint = Checkpoint("lenet/checkpoints", monitor="eval_acc", callbacks=callbacks)
    point = checkpoint.resume(model)
    if not point.ended:
        model.fit(
            Noise(),
            Noise(),
            batch_size=32,
            epochs=EPOCHS - point.epoch,
            verbose=0,
            callbacks=[*callbacks, checkpoint],
        )
    best = checkpoint.folder.read(checkpoint.folder.labelled("best"))
    print(best.state["epoch"], best.state["metrics"], sorted(best.weights)[:2])
