"""StepHistory: the loss and the rate within epochs, each step once, whatever happens to the training."""

from __future__ import annotations

import json
import warnings

import numpy as np
import paddle
import pytest
from toy import Stop, batches, toy_model

from callbacks import Checkpoint, CheckpointError, LambdaCallback, StepHistory, read_history
from callbacks.line_file import LineFile


def fit(path, every_steps=2, epochs=2, data=None, model=None, others=(), **place):
    model = model or toy_model()
    data = batches() if data is None else data
    model.fit(data, epochs=epochs, verbose=0, callbacks=[*others, StepHistory(path, every_steps)], **place)


def steps(path):
    return [record["step"] for record in read_history(path)]


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_every_so_many_steps_and_the_last_of_each_epoch_are_recorded(tmp_path, stock):
    fit(tmp_path / "steps.jsonl", model=toy_model(stock))
    records = read_history(tmp_path / "steps.jsonl")
    assert list(records[0]) == ["step", "epoch", "loss", "lr", "seconds"]
    assert [(record["step"], record["epoch"]) for record in records] == [
        (2, 0.666667),
        (3, 1.0),
        (5, 1.666667),
        (6, 2.0),
    ]
    assert all(record["seconds"] > 0 and record["lr"] == 0.1 for record in records)


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_the_loss_is_the_mean_of_the_batches_since_the_last_record(tmp_path, stock):
    losses = []

    def note(step, logs):
        losses.append(float(np.sum(logs.get("batch_loss", logs["loss"]))))

    fit(tmp_path / "steps.jsonl", model=toy_model(stock), others=[LambdaCallback(on_train_batch_end=note)])
    expected = [np.mean(losses[:2]), losses[2], np.mean(losses[3:5]), losses[5]]
    assert [record["loss"] for record in read_history(tmp_path / "steps.jsonl")] == pytest.approx(expected, rel=1e-6)


def test_the_rate_is_that_of_the_last_step(tmp_path):
    model = toy_model()
    rate = paddle.optimizer.lr.LambdaDecay(1.0, lambda step: 0.5**step)
    model.prepare(paddle.optimizer.SGD(rate, parameters=model.parameters()), paddle.nn.CrossEntropyLoss())
    fit(tmp_path / "steps.jsonl", model=model)
    assert [record["lr"] for record in read_history(tmp_path / "steps.jsonl")] == [0.5, 0.25, 0.0625, 0.03125]


def test_data_without_a_length_has_no_part_of_an_epoch(tmp_path):
    fit(tmp_path / "steps.jsonl", data=iter(batches()), epochs=1)
    records = read_history(tmp_path / "steps.jsonl")
    assert [record["step"] for record in records] == [2, 3] and not any("epoch" in record for record in records)


def go_on(folder, stop_after=None, every_steps=1):
    """Begin a training in `folder` or go on with it; crash after `stop_after` steps."""
    model, recorded = toy_model(), StepHistory(folder / "steps.jsonl", 4)
    checkpoint = Checkpoint(folder / "checkpoints", every_steps=every_steps)
    point = checkpoint.resume(model)
    place = {"initial_epoch": point.epoch, "initial_step": point.batch}
    try:
        model.fit(batches(4), epochs=3, verbose=0, callbacks=[recorded, checkpoint, Stop(stop_after)], **place)
    except ConnectionError:
        checkpoint.__exit__()


@pytest.mark.parametrize("every_steps", [1, 3])
@pytest.mark.parametrize("stop_after", [1, 4, 6, 11])
def test_after_a_crash_it_holds_each_step_once_as_if_nothing_had_happened(tmp_path, stop_after, every_steps):
    go_on(tmp_path / "whole")
    go_on(tmp_path / "cut", stop_after, every_steps)
    go_on(tmp_path / "cut", every_steps=every_steps)
    whole, cut = (read_history(tmp_path / name / "steps.jsonl") for name in ("whole", "cut"))
    for record in (*whole, *cut):
        del record["seconds"]
    assert cut == whole and len(whole) == 6


def test_a_checkpoint_of_a_training_that_did_not_record_its_steps_is_gone_on_from(tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoints", every_steps=1)
    with pytest.raises(ConnectionError):
        toy_model().fit(batches(4), epochs=3, verbose=0, callbacks=[checkpoint, Stop(8)])
    checkpoint.__exit__()
    go_on(tmp_path)
    assert steps(tmp_path / "steps.jsonl") == [12, 16, 18]


def test_what_a_crash_cut_short_is_written_again(tmp_path):
    go_on(tmp_path, stop_after=7)
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    go_on(tmp_path)
    assert steps(tmp_path / "steps.jsonl") == [4, 6, 10, 12, 16, 18]


def test_a_file_that_is_gone_begins_again_and_one_of_something_else_is_refused(tmp_path):
    go_on(tmp_path, stop_after=7)
    (tmp_path / "steps.jsonl").unlink()
    go_on(tmp_path, stop_after=3)
    assert steps(tmp_path / "steps.jsonl") == [10]
    for other, said in (("notes\n", "not a record"), ('{"epoch": 1}\n', "not a record of steps")):
        (tmp_path / "steps.jsonl").write_text(other)
        with pytest.raises(CheckpointError, match=rf"steps\.jsonl, line 1: {said}; to go on, remove .*steps\.jsonl"):
            go_on(tmp_path)
        assert (tmp_path / "steps.jsonl").read_text() == other


def test_a_full_disk_is_warned_of_once_and_the_file_is_whole_again_later(tmp_path, monkeypatch):
    append, failing = LineFile.append, [True, True]

    def fail_twice(self, line):
        if failing:
            failing.pop()
            with self.path.open("ab") as file:
                file.write(line[:7])
            raise OSError(28, "No space left on device")
        append(self, line)

    monkeypatch.setattr(LineFile, "append", fail_twice)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(tmp_path / "steps.jsonl")
    assert [str(each.message) for each in told if "steps.jsonl" in str(each.message)] == [
        f"{tmp_path / 'steps.jsonl'}: step 2 not recorded: No space left on device; training goes on"
    ]
    assert steps(tmp_path / "steps.jsonl") == [5, 6]


def test_an_earlier_training_in_the_file_is_replaced(tmp_path):
    (tmp_path / "steps.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    fit(tmp_path / "steps.jsonl", epochs=1)
    assert steps(tmp_path / "steps.jsonl") == [2, 3]


@pytest.mark.parametrize("every_steps", [0, -1, 1.5, True, "10"])
def test_a_count_that_is_none_is_refused(every_steps):
    with pytest.raises(ValueError, match=f"StepHistory: every_steps = {every_steps!r}: must be a whole number"):
        StepHistory("steps.jsonl", every_steps)
