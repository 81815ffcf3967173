"""Train, evaluate and predict from Python, with a callback of one's own. A minute on a CPU, without network."""

import numpy as np
import paddle

from cifar_hapi import evaluate, fit, load, predict


class Notes(paddle.callbacks.Callback):
    """Any callback of Paddle's works; at the end of an epoch it sees training and evaluation side by side."""

    def on_epoch_end(self, epoch, logs=None):
        print({name: round(value, 3) for name, value in logs.items()})


if __name__ == "__main__":
    run = fit(
        "quick",
        data="synthetic",
        epochs=2,
        callbacks=[Notes()],
        **{"network.width": 8, "optimizer.lr": 0.05},
    )
    print(run.path, run.history[-1]["eval_acc"], run.evaluation["top1"])

    again = evaluate(run.path)
    assert again["top1"] == run.evaluation["top1"]

    grey = np.full((32, 32, 3), 128, dtype=np.uint8)
    print(predict(run.path, grey).names)

    model = load(run.path, weights="best")  # a paddle.Model, ready to evaluate and predict
    print(sum(parameter.size for parameter in model.parameters()))
