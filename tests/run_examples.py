"""Runs on disk that nobody has trained: what pages and tables about runs are made of."""

from __future__ import annotations

import json

import numpy as np

from cifar_hapi import Run
from cifar_hapi.answers import AnswerMetric, write_answers
from cifar_hapi.data.sources import open_data
from cifar_hapi.metrics import Calibration, ConfusionMatrix
from cifar_hapi.recipe import Recipe

MANIFEST = {
    "format": 1,
    "status": "finished",
    "started": "2026-01-02T03:04:05.678901+00:00",
    "seconds": 12.3,
    "device": "cpu",
    "engine": "native",
    "precision": "float32",
    "versions": {"cifar-hapi": "0.1.0", "paddle": "3.3.1"},
    "machine": {"cpu": "a CPU", "cores": 2},
    "command": ["/somewhere/bin/cifar-hapi", "train", "quick"],
    "parameters": 1234,
    "peak_memory": 987_654_321,
}


def history(epochs=3, first=0.3):
    """Accuracy rises to the epoch before the last."""
    accuracies = [first + 0.1 * min(epoch, epochs - 2) - 0.05 * (epoch == epochs - 1) for epoch in range(epochs)]
    return [
        {
            "epoch": epoch + 1,
            "step": 5 * (epoch + 1),
            "loss": 2.0 - accuracy,
            "acc": accuracy - 0.02,
            "eval_loss": 1.9 - accuracy,
            "eval_acc": accuracy,
            "lr": 0.1 / (epoch + 1),
            "seconds": 2.0 + epoch,
            "images_per_second": 100.0,
        }
        for epoch, accuracy in enumerate(accuracies)
    ]


def steps(epochs=3):
    """Of five steps in each epoch of `history` every second one, and the last."""
    return [
        {
            "step": 5 * epoch + step,
            "epoch": epoch + step / 5,
            "loss": 2.2 - 0.1 * epoch - 0.02 * step,
            "lr": 0.1 / (epoch + 1),
            "seconds": (2.0 + epoch) * (1 if step == 5 else 2) / 5,
        }
        for epoch in range(epochs)
        for step in (2, 4, 5)
    ]


def evaluation(labels, logits, names, **changes):
    """What `evaluate` writes of such answers."""
    confusion, calibration = ConfusionMatrix(len(names)), Calibration()
    for metric in (confusion, calibration):
        metric.update(logits, labels)
    counts = confusion.accumulate()
    per_class = counts.diagonal() / counts.sum(axis=1).clip(min=1)
    return {
        "images": len(labels),
        "views": "plain",
        "loss": 1.25,
        "top1": float((logits.argmax(axis=1) == labels).mean()),
        "top5": 0.9,
        "per_class": dict(zip(names, per_class.tolist(), strict=True)),
        "confusion": counts.tolist(),
        "calibration": calibration.accumulate(),
        "data": "cifar10",
        "note": "",
        "weights": "latest",
        "step": 15,
        "engine": "native",
        "precision": "float32",
        "when": "2026-01-02T03:05:06.000000+00:00",
        **changes,
    }


def logits_of(labels, classes=10, seed=0):
    """About half of them are right."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes)).astype("float32")
    logits[np.arange(len(labels)), labels] += 1.5
    return logits


def called_generated(run):
    """The same run, as if its images were the generated set."""
    note = "These are generated images: no result here is a CIFAR result."
    run.update(data=run.manifest["data"] | {"name": "synthetic", "note": note})
    run.save_evaluation(run.evaluation | {"data": "synthetic", "note": note})
    return run


def written_run(path, data_dir, source="cifar10", evaluated=True, answered=True, epochs=3, manifest=None, **recipe):
    """A run at `path` on the data in `data_dir`.

    manifest: keys of run.json. recipe: dotted keys, with two underscores for the dot.
    """
    changes = {key.replace("__", "."): value for key, value in recipe.items()}
    place = {"data.dir": str(data_dir)} if source == "cifar10" else {}
    declared = Recipe.load("quick", {"epochs": epochs, "data.source": source, **place, **changes})
    data = open_data(declared.data, declared.seed)
    identity = {"recipe": declared.to_dict(), "data": data.identity().to_dict(), "seed": declared.seed}
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({**MANIFEST, **identity, **(manifest or {})}))
    for name, records in (("history.jsonl", history(epochs)), ("steps.jsonl", steps(epochs))):
        (path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    run = Run(path)
    if evaluated:
        labels, logits = data.test.labels, logits_of(data.test.labels, len(data.test.class_names))
        about = {"data": data.name, "note": data.note, "step": 5 * epochs}
        found = evaluation(labels, logits, data.test.class_names, **about)
        run.save_evaluation(found)
        if answered:
            metric = AnswerMetric()
            metric.update(logits, labels)
            write_answers(run.answers_path, metric.answers, images=data.test.sha256(), evaluated=found["when"])
    return run
