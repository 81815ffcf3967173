"""TensorBoard and VisualDL: what their files hold, whoever trains, and after a resume."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from toy import batches, toy_model

from callbacks import Checkpoint, TensorBoard, VisualDL
from cifar_hapi.metrics import ConfusionMatrix

TENSORS = ("scale", "shift", "running_mean", "running_variance")
SCALARS = {"loss/train", "acc/train", "loss/eval", "acc/eval", "learning_rate", "images_per_second"}


class FakeWriter:
    """Keeps what it is given: (kind, tag, step) -> value. The class's `written` is that of the newest writer."""

    def __init__(self, folder, **options):
        self.folder, self.options, self.flushed, self.closed = folder, options, 0, 0
        self.made.append(self)
        self.written = type(self).written = {}

    def add_scalar(self, tag, value, step):
        self.written["scalar", tag, step] = value

    def add_histogram(self, tag, values, step):
        self.written["histogram", tag, step] = values

    def add_image(self, tag, image, step, dataformats):
        assert dataformats == "HWC"
        self.written["image", tag, step] = image

    def flush(self):
        self.flushed += 1

    def close(self):
        self.closed += 1


@pytest.fixture
def fake(monkeypatch):
    """Both libraries, without a file."""
    FakeWriter.written, FakeWriter.made = {}, []
    library = SimpleNamespace(SummaryWriter=FakeWriter, LogWriter=FakeWriter)
    monkeypatch.setitem(sys.modules, "tensorboardX", library)
    monkeypatch.setitem(sys.modules, "visualdl", library)
    return FakeWriter


def train(callback, epochs=2, stock=False, confusion=False, evaluate=True, **options):
    model = toy_model(stock)
    metrics = [paddle.metric.Accuracy(), *([ConfusionMatrix(3)] if confusion else [])]
    model.prepare(paddle.optimizer.Momentum(0.1, parameters=model.parameters()), paddle.nn.CrossEntropyLoss(), metrics)
    model.fit(batches(), batches() if evaluate else None, epochs=epochs, verbose=0, callbacks=callback, **options)
    return model


@pytest.mark.parametrize("kind", [TensorBoard, VisualDL])
@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_each_epoch_has_its_scalars_and_histograms(fake, tmp_path, kind, stock):
    callback = kind(tmp_path)
    model = train(callback, stock=stock)
    assert {(tag, step) for what, tag, step in fake.written if what == "scalar"} == {
        (tag, epoch) for tag in SCALARS for epoch in (1, 2)
    }
    for record in callback.records:
        for tag, key in (("loss/train", "loss"), ("acc/eval", "eval_acc"), ("learning_rate", "lr")):
            assert fake.written["scalar", tag, record["epoch"]] == record[key]
    assert {(tag, step) for what, tag, step in fake.written if what == "histogram"} == {
        (f"batch_norm/1/{tensor}", epoch) for tensor in TENSORS for epoch in (1, 2)
    }
    for tensor, name in zip(TENSORS, ("weight", "bias", "_mean", "_variance"), strict=True):
        expected = model.network.state_dict()[f"1.{name}"].numpy()
        np.testing.assert_array_equal(fake.written["histogram", f"batch_norm/1/{tensor}", 2], expected)
    (writer,) = fake.made
    assert (writer.folder, writer.flushed, writer.closed) == (str(tmp_path), 2, 1)


@pytest.mark.parametrize(("every", "epochs"), [(1, {1, 2, 3, 4, 5}), (2, {2, 4}), (None, set())])
def test_histograms_come_every_so_many_epochs(fake, tmp_path, every, epochs):
    train(TensorBoard(tmp_path, every_epochs=every), epochs=5)
    assert {step for what, _, step in fake.written if what == "histogram"} == epochs


def test_a_training_without_evaluation_has_no_scalars_of_one(fake, tmp_path):
    train(TensorBoard(tmp_path), evaluate=False)
    assert {tag for what, tag, _ in fake.written if what == "scalar"} == {
        tag for tag in SCALARS if not tag.endswith("/eval")
    }


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_each_evaluation_with_a_confusion_matrix_has_a_picture(fake, tmp_path, stock):
    train(TensorBoard(tmp_path), stock=stock, confusion=True, epochs=4, eval_freq=2)
    epochs = (1, 3) if stock else (2, 4)
    assert [key for key in fake.written if key[0] == "image"] == [("image", "confusion/eval", each) for each in epochs]


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_the_picture_is_white_for_nothing_and_darkest_for_a_whole_row(fake, tmp_path, stock):
    callback, matrix = TensorBoard(tmp_path), np.array([[4, 0], [3, 1]])
    callback.set_model(toy_model())
    callback.set_params({"epochs": 1, **({} if stock else {"evaluates_within_epoch": True})})
    callback.on_train_begin({})
    callback.on_epoch_begin(0, {})
    for call in ("end", "eval") if stock else ("eval", "end"):
        if call == "end":
            callback.on_epoch_end(0, {"loss": 1.0})
        else:
            callback.on_eval_end({"loss": 1.0, "confusion": matrix, "wide": np.ones((2, 3)), "lone": np.ones((1, 1))})
    (image,) = [value for (what, _, _), value in fake.written.items() if what == "image"]
    assert image.shape == (320, 320, 3) and image.dtype == np.uint8
    dark, white, most, some = (image[y, x].astype(int) for y in (80, 240) for x in (80, 240))
    assert dark.tolist() == [8, 48, 107] and white.tolist() == [255, 255, 255]
    assert some.tolist() == [132, 152, 181]  # a quarter of the row: halfway
    assert (dark < most).all() and (most < some).all()


def test_an_empty_row_of_a_confusion_matrix_is_white_and_a_big_matrix_fits(fake, tmp_path):
    callback = TensorBoard(tmp_path)
    callback.set_model(toy_model())
    callback.set_params({"epochs": 1, "evaluates_within_epoch": True})
    callback.on_train_begin({})
    callback.on_epoch_begin(0, {})
    callback.on_eval_end({"confusion": np.zeros((500, 500), "int64")})
    callback.on_epoch_end(0, {})
    assert (fake.written["image", "confusion/eval", 1] == 255).all()
    assert fake.written["image", "confusion/eval", 1].shape == (500, 500, 3)


def test_values_that_are_not_finite_are_left_out_of_histograms(fake, tmp_path):
    class Breaks(paddle.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            self.model.network[1]._mean.set_value(np.array([np.nan, np.inf] + [1.0] * 6, "float32"))
            self.model.network[1]._variance.set_value(np.full(8, np.nan, "float32"))

    train([Breaks(), TensorBoard(tmp_path)], epochs=1, evaluate=False)
    np.testing.assert_array_equal(fake.written["histogram", "batch_norm/1/running_mean", 1], np.ones(6))
    assert ("histogram", "batch_norm/1/running_variance", 1) not in fake.written


def test_a_network_that_is_one_norm_layer_and_has_no_scale(fake, tmp_path):
    callback = TensorBoard(tmp_path)
    callback.set_model(paddle.Model(paddle.nn.BatchNorm2D(3, weight_attr=False)))
    callback.set_params({"epochs": 1, "evaluates_within_epoch": True})
    callback.on_train_begin({})
    callback.on_epoch_begin(0, {})
    callback.on_epoch_end(0, {})
    tags = {tag for what, tag, _ in fake.written if what == "histogram"}
    assert tags == {f"batch_norm/network/{tensor}" for tensor in TENSORS if tensor != "scale"}


def test_the_writer_is_closed_after_an_error(fake, tmp_path):
    class Fails(paddle.callbacks.Callback):
        def on_eval_begin(self, logs=None):
            raise ConnectionError("mine")

    with pytest.raises(ConnectionError):
        train([TensorBoard(tmp_path), Fails()])
    assert fake.made[0].closed == 1


@pytest.mark.parametrize("kind", [TensorBoard, VisualDL])
def test_only_the_first_process_writes(fake, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("callbacks.summaries.is_writer", lambda: False)
    train(kind(tmp_path))
    assert not fake.made


@pytest.mark.parametrize("kind", [TensorBoard, VisualDL])
def test_a_library_that_is_missing_is_named_with_the_way_out(tmp_path, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, kind.package, None)
    with pytest.raises(ImportError) as caught:
        kind(tmp_path)
    extra = kind.__name__.lower()
    assert str(caught.value) == f"{kind.__name__} needs {kind.package}: pip install cifar-hapi[{extra}]"


@pytest.mark.usefixtures("fake")
def test_no_epochs_between_histograms_are_refused(tmp_path):
    with pytest.raises(ValueError, match="TensorBoard: every_epochs = 0: must be at least 1"):
        TensorBoard(tmp_path, every_epochs=0)


def resumed(kind, tmp_path, stock):
    """Two trainings of the same: one that crashes in its third epoch, and one that goes on after the first."""

    class Crashes(paddle.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise ConnectionError("crash")

    writer = kind(tmp_path / "logs")
    checkpoint = Checkpoint(tmp_path / "checkpoints", callbacks=[writer], keep=9)
    with pytest.raises(ConnectionError):
        train([writer, Crashes(), checkpoint], epochs=4, stock=stock)
    checkpoint.__exit__()
    writer.__exit__()
    for name in checkpoint.folder.names()[1:]:  # the second epoch is lost
        for file in (checkpoint.folder.path / name).iterdir():
            file.unlink()
        (checkpoint.folder.path / name).rmdir()
    model, writer = toy_model(stock), kind(tmp_path / "logs")
    checkpoint = Checkpoint(tmp_path / "checkpoints", callbacks=[writer])
    point = checkpoint.resume(model)
    assert point.epoch == 1
    place = {"epochs": 4 - point.epoch} if stock else {"epochs": 4, "initial_epoch": point.epoch}
    model.fit(batches(), batches(), verbose=0, callbacks=[writer, checkpoint], **place)


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_after_a_resume_tensorboard_is_told_to_forget_what_comes_again(fake, tmp_path, stock):
    resumed(TensorBoard, tmp_path, stock)
    assert [writer.options for writer in fake.made] == [{"purge_step": 1}, {"purge_step": 2}]
    assert {step for _, _, step in fake.written} == {2, 3, 4}


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_after_a_resume_visualdl_has_all_epochs_in_the_new_file(fake, tmp_path, stock):
    resumed(VisualDL, tmp_path, stock)
    assert len(fake.made) == 2
    epochs = [step for what, tag, step in fake.written if tag == "loss/train"]
    assert epochs == [1, 2, 3, 4]


def events(folder):
    """The events in the files of `folder`, oldest first: TFRecords of (length, checksum, event, checksum)."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for file in sorted(Path(folder).iterdir()):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_the_files_of_tensorboard_hold_all_of_it(tmp_path):
    pytest.importorskip("tensorboardX")
    callback = TensorBoard(tmp_path)
    train(callback, confusion=True)
    values = {(value.tag, event.step): value for event in events(tmp_path) for value in event.summary.value}
    for record in callback.records:
        for key, tag in (("loss", "loss/train"), ("eval_acc", "acc/eval"), ("lr", "learning_rate")):
            assert values[tag, record["epoch"]].simple_value == pytest.approx(record[key])
    assert values["batch_norm/1/scale", 2].histo.num == 8
    assert values["confusion/eval", 2].image.height == 318
    assert values["confusion/eval", 2].image.encoded_image_string.startswith(b"\x89PNG")


def test_the_files_of_visualdl_hold_all_of_it(tmp_path):
    visualdl = pytest.importorskip("visualdl")
    callback = VisualDL(tmp_path)
    train(callback, confusion=True)
    reader = visualdl.LogReader(file_path=str(max(tmp_path.iterdir())))
    losses = reader.get_data("scalar", "loss/train")
    assert [each.id for each in losses] == [1, 2]
    assert [each.value for each in losses] == pytest.approx([each["loss"] for each in callback.records])
    assert "batch_norm/1/scale" in reader.get_tags()["histogram"]
    assert "confusion/eval" in reader.get_tags()["image"]
