"""History: plain data that is on disk from the first epoch on, under Paddle's fit and under ours."""

from __future__ import annotations

import csv
import json

import paddle
import pytest
from paddle.callbacks import Callback
from toy import LABELS, batches, toy_model

from callbacks import History, read_history


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_one_record_an_epoch_with_training_and_evaluation_metrics(tmp_path, stock):
    path, history = tmp_path / "history.jsonl", History(tmp_path / "history.jsonl")
    toy_model(stock).fit(batches(), batches(), epochs=3, verbose=0, callbacks=history)
    records = read_history(path)
    assert records == history.records and len(records) == 3
    first = ["epoch", "step", "loss", "acc", "eval_loss", "eval_acc", "lr", "seconds", "images_per_second"]
    assert list(records[0]) == first
    assert [(record["epoch"], record["step"]) for record in records] == [(1, 3), (2, 6), (3, 9)]
    assert all(record["seconds"] > 0 and record["images_per_second"] > 0 and record["lr"] == 0.1 for record in records)


def test_the_table_for_spreadsheets_has_all_columns(tmp_path):
    history = History(tmp_path / "history.jsonl")
    toy_model().fit(batches(), batches(), epochs=3, eval_freq=2, verbose=0, callbacks=history)
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [row["eval_acc"] == "" for row in rows] == [True, False, False]
    assert [float(row["loss"]) for row in rows] == [record["loss"] for record in history.records]


def test_records_are_on_disk_before_training_ends(tmp_path):
    path = tmp_path / "history.jsonl"

    class Crash(History):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            if epoch == 2:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        toy_model().fit(batches(), epochs=5, verbose=0, callbacks=Crash(path))
    assert [record["epoch"] for record in read_history(path)] == [1, 2]


def test_one_instance_serves_two_fits(tmp_path):
    history = History()
    for epochs in (3, 2):
        toy_model().fit(batches(), epochs=epochs, verbose=0, callbacks=history)
        assert len(history.records) == epochs


def test_evaluations_outside_of_training_are_no_part_of_it():
    history = History()
    model = toy_model()
    model.fit(batches(), epochs=1, verbose=0, callbacks=history)
    model.evaluate(batches(), verbose=0, callbacks=history)
    assert len(history.records) == 1 and "eval_acc" not in history.records[0]
    assert len(LABELS) == 23


@pytest.mark.parametrize(
    ("text", "records"),
    [("", []), ('{"epoch": 1}\n', [{"epoch": 1}]), ('{"epoch": 1}\n{"epo', [{"epoch": 1}]), ('{"epoch"', [])],
)
def test_a_last_line_that_was_cut_short_is_left_out(tmp_path, text, records):
    (tmp_path / "h.jsonl").write_text(text)
    assert read_history(tmp_path / "h.jsonl") == records


@pytest.mark.parametrize("line", ["nonsense", "[1]", "3", "{", "\x00"])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    (tmp_path / "h.jsonl").write_text(json.dumps({"epoch": 1}) + f"\n{line}\n")
    with pytest.raises(ValueError, match=r"h\.jsonl, line 2: not a record"):
        read_history(tmp_path / "h.jsonl")


def test_a_line_that_is_no_utf8_is_named(tmp_path):
    (tmp_path / "h.jsonl").write_bytes(b'{"epoch": 1}\n{"\xff": 2}\n')
    with pytest.raises(ValueError, match=r"h\.jsonl, line 2: not a record"):
        read_history(tmp_path / "h.jsonl")


def test_the_time_of_an_epoch_is_that_of_its_steps(monkeypatch):
    """Other callbacks that are busy between epochs do not count."""
    clock = iter(range(1000))
    monkeypatch.setattr("callbacks.step_clock.time.perf_counter", lambda: float(next(clock)))

    class Busy(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for _ in range(100):
                next(clock)

    history = History()
    toy_model().fit(batches(), epochs=2, verbose=0, callbacks=[history, Busy()])
    assert [record["seconds"] for record in history.records] == [3.0, 3.0]


def test_a_loss_of_several_parts_is_their_sum():
    history = History()
    model = toy_model(stock=True)
    model.prepare(model._optimizer, lambda out, label: [paddle.mean(out * out), paddle.mean(out * out)])
    model.fit(batches(23), epochs=1, verbose=0, callbacks=history)
    assert history.records[0]["loss"] > 0
