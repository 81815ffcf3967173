"""Going on where a training stopped: the same bits, or a clear word why not."""

from __future__ import annotations

import copy
import io
import os
import random
import signal
import warnings
from dataclasses import replace

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.callbacks import Callback
from rich.console import Console
from toy import Stop, batches, same_training, toy_model

from callbacks import (
    Checkpoint,
    CheckpointError,
    CheckpointFolder,
    EarlyStopping,
    ExponentialMovingAverage,
    History,
    Progress,
    StepHistory,
)
from cifar_hapi.muon import Muon

SCHEDULES = {
    "constant": lambda: 0.1,
    "cosine": lambda: paddle.optimizer.lr.CosineAnnealingDecay(0.1, 12),
    "warm-up": lambda: paddle.optimizer.lr.LinearWarmup(paddle.optimizer.lr.StepDecay(0.1, 4), 3, 0.0, 0.1),
}
OPTIMIZERS = {
    "momentum": lambda rate, parameters: paddle.optimizer.Momentum(rate, parameters=parameters, weight_decay=1e-3),
    "adamw": lambda rate, parameters: paddle.optimizer.AdamW(rate, parameters=parameters),
    "muon": lambda rate, parameters: Muon(rate, parameters=parameters),
}


def train(folder, stop_after=None, stock=False, epochs=4, optimizer="momentum", schedule="cosine", **options):
    """Go on with the training in `folder`, or begin it; crash after `stop_after` steps."""
    model = toy_model(stock)
    rate = SCHEDULES[schedule]()
    model.prepare(
        OPTIMIZERS[optimizer](rate, model.parameters()), paddle.nn.CrossEntropyLoss(), paddle.metric.Accuracy()
    )
    others = [
        ExponentialMovingAverage(0.9),
        History(folder / "history.jsonl"),
        StepHistory(folder / "steps.jsonl", every_steps=2),
        EarlyStopping("eval_loss", patience=2, restore_best=True),
    ]
    checkpoint = Checkpoint(folder, **{"every_steps": 1, "monitor": "eval_acc", "callbacks": others, **options})
    point = checkpoint.resume(model)
    place = {"epochs": epochs - point.epoch}
    if not stock:
        place = {"epochs": epochs, "initial_epoch": point.epoch, "initial_step": point.batch}
    try:
        model.fit(batches(), batches(), verbose=0, callbacks=[*others, checkpoint, Stop(stop_after)], **place)
    except ConnectionError:
        checkpoint.__exit__()
    return point


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_resumed_training_ends_with_the_bits_of_one_that_never_stopped(tmp_path, optimizer, schedule, steps):
    train(tmp_path / "whole", optimizer=optimizer, schedule=schedule)
    for _again in range(3):
        train(tmp_path / "cut", steps, optimizer=optimizer, schedule=schedule)
    train(tmp_path / "cut", optimizer=optimizer, schedule=schedule)
    assert same_training(tmp_path / "whole", tmp_path / "cut") == []
    assert train(tmp_path / "cut", optimizer=optimizer, schedule=schedule).ended
    assert same_training(tmp_path / "whole", tmp_path / "cut") == []


@pytest.mark.parametrize("steps", [4, 5, 7])
def test_under_paddles_own_fit_it_goes_on_at_the_begin_of_an_epoch(tmp_path, steps):
    train(tmp_path / "whole", stock=True)
    train(tmp_path / "cut", steps, stock=True)
    point = train(tmp_path / "cut", stock=True)
    assert point.batch == 0 and point.epoch == steps // 3 - (steps % 3 == 0)
    assert same_training(tmp_path / "whole", tmp_path / "cut") == []


def test_saves_within_an_epoch_never_push_out_what_paddles_own_fit_can_go_on_from(tmp_path):
    train(tmp_path / "whole", stock=True)
    for steps in (4, 1, 1, 2):
        train(tmp_path / "cut", steps, stock=True, keep=1)
    assert train(tmp_path / "cut", stock=True, keep=1).epoch == 1
    assert same_training(tmp_path / "whole", tmp_path / "cut") == []


def test_a_callback_that_remembers_nothing_is_not_missed(tmp_path):
    shown = Progress(console=Console(file=io.StringIO()))
    toy_model().fit(batches(), epochs=1, verbose=0, callbacks=[shown, Checkpoint(tmp_path)])
    checkpoint = Checkpoint(tmp_path)
    checkpoint.resume(toy_model())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.set_params({"callbacks": [checkpoint]})


class Noise(paddle.io.Dataset):
    """Shuffled by the loader, varied by NumPy's and Python's global generators."""

    def __len__(self):
        return 23

    def __getitem__(self, place):
        image = np.full(4, place, "float32") + np.random.rand(4).astype("float32") + random.random()
        return image, np.array([place % 3])


def test_global_random_numbers_of_the_data_go_on_too(tmp_path):
    def run(folder, stop_after=None):
        random.seed(1), np.random.seed(1)
        model = toy_model()
        loader = paddle.io.DataLoader(Noise(), batch_size=8, shuffle=True)
        checkpoint = Checkpoint(folder, every_steps=1)
        point = checkpoint.resume(model)
        place = {"initial_epoch": point.epoch, "initial_step": point.batch}
        try:
            model.fit(loader, epochs=3, verbose=0, callbacks=[checkpoint, Stop(stop_after)], **place)
        except ConnectionError:
            checkpoint.__exit__()

    run(tmp_path / "whole")
    for steps in (2, 3):
        run(tmp_path / "cut", steps)
    run(tmp_path / "cut")
    assert same_training(tmp_path / "whole", tmp_path / "cut") == []


def test_a_data_set_that_fit_shuffles_itself_goes_on_too(tmp_path):
    """Not under Paddle's own fit, whose sampler counts its epochs from 0 again: docs/callbacks.md says so."""

    def run(folder, stop_after=None):
        random.seed(1), np.random.seed(1)
        model, checkpoint = toy_model(), Checkpoint(folder, every_steps=1)
        point = checkpoint.resume(model)
        place = {"initial_epoch": point.epoch, "initial_step": point.batch}
        try:
            model.fit(Noise(), batch_size=8, epochs=3, verbose=0, callbacks=[checkpoint, Stop(stop_after)], **place)
        except ConnectionError:
            checkpoint.__exit__()

    run(tmp_path / "whole")
    run(tmp_path / "cut", 5)
    run(tmp_path / "cut")
    assert same_training(tmp_path / "whole", tmp_path / "cut") == []


def test_a_damaged_checkpoint_is_passed_over_with_its_name(tmp_path):
    train(tmp_path, 7)
    newest = sorted(tmp_path.glob("step-*"))[-1]
    (newest / "optimizer.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match=f"{newest.name}.*damaged.*older"):
        assert train(tmp_path).step == 6


def test_another_network_or_optimizer_is_told_with_names_and_shapes(tmp_path):
    train(tmp_path, 3)
    model = toy_model()
    model.network[0] = paddle.nn.Linear(4, 9)
    with pytest.raises(CheckpointError, match=r"0\.weight: \[4, 8\], here \[4, 9\].*0\.bias"):
        Checkpoint(tmp_path).resume(model)
    with pytest.raises(CheckpointError, match="another optimizer: Momentum, here AdamW"):
        train(tmp_path, optimizer="adamw")


def test_a_folder_of_another_training_is_not_mixed_with_a_new_one(tmp_path):
    train(tmp_path, 3)
    with pytest.raises(CheckpointError, match="has checkpoints already"):
        toy_model().fit(batches(), epochs=1, verbose=0, callbacks=[Checkpoint(tmp_path)])


def test_nothing_to_resume_is_a_training_from_the_begin(tmp_path):
    point = Checkpoint(tmp_path / "none").resume(toy_model())
    assert (point.epoch, point.batch, point.step, point.ended) == (0, 0, 0, False)


def test_checkpoint_must_be_the_last_of_the_list_under_paddles_own_fit(tmp_path):
    history = History()
    checkpoint = Checkpoint(tmp_path, callbacks=[history])
    with pytest.raises(ValueError, match="must come after History"):
        toy_model(stock=True).fit(batches(), epochs=1, verbose=0, callbacks=[checkpoint, history])
    toy_model().fit(batches(), epochs=1, verbose=0, callbacks=[checkpoint, history])


class Signal(Callback):
    """Sends this process a signal in the second step, or in the first evaluation."""

    def __init__(self, number, during="train"):
        super().__init__()
        self.number, self.during = number, during

    def on_train_batch_begin(self, step, logs=None):
        if self.during == "train" and step == 1:
            os.kill(os.getpid(), self.number)

    def on_eval_batch_begin(self, step, logs=None):
        if self.during == "eval" and step == 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("during", ["train", "eval"])
@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_a_signal_saves_after_the_step_and_ends(tmp_path, number, error, during, stock):
    before = signal.getsignal(number)
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(error) as raised:
        toy_model(stock).fit(batches(), batches(), verbose=0, callbacks=[Signal(number, during), checkpoint])
    assert error is KeyboardInterrupt or raised.value.code == 143
    state = checkpoint.folder.read(checkpoint.folder.labelled("latest")).state
    assert (state["epoch"], state["batch"]) == ((0, 2) if during == "train" else (1, 0) if stock else (0, 3))
    assert signal.getsignal(number) == before


def test_a_write_that_fails_is_warned_of_and_training_goes_on(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, keep=9)
    write, failing = checkpoint.folder.write, {3, 9}

    def write_or_fail(step, saved):
        if step in failing:
            raise OSError(28, "No space left on device")
        return write(step, saved)

    monkeypatch.setattr(checkpoint.folder, "write", write_or_fail)
    with pytest.warns(UserWarning, match="step-00000009: No space left on device; training goes on, the last good one"):
        toy_model().fit(batches(), epochs=5, verbose=0, callbacks=[checkpoint])
    assert checkpoint.folder.names() == [f"step-{step:08d}" for step in (6, 12, 15)]


def test_an_end_that_cannot_be_saved_is_an_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.warns(UserWarning, match="there is none yet"),
        pytest.raises(CheckpointError, match="could not be saved"),
    ):
        toy_model().fit(batches(), epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path / "file")])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rolling_back_brings_weights_and_optimizer_of_the_newest_finite_checkpoint(tmp_path, schedule):
    model, checkpoint = toy_model(), Checkpoint(tmp_path, keep=9)
    made = OPTIMIZERS["momentum"](SCHEDULES[schedule](), model.parameters())
    model.prepare(made, paddle.nn.CrossEntropyLoss())
    model.fit(batches(), epochs=2, verbose=0, callbacks=[checkpoint])
    kept = checkpoint.folder.read("step-00000003")
    broken = checkpoint.folder.read("step-00000006")
    broken.weights["0.weight"] = broken.weights["0.weight"] * np.float32("nan")
    checkpoint.folder.write(6, broken)
    rate = model.optimizer.get_lr()
    assert checkpoint.roll_back() == "step-00000003" and model.optimizer.get_lr() == rate
    for name, tensor in model.network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), kept.weights[name])


JUNK = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
)
JUNK |= st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)


def places(value, path=()):
    """All ways to a value inside of nested dictionaries and lists; of long lists the first three items."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, each in inside:
        yield from places(each, (*path, key))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint within an epoch, of a training with every kind of state."""
    folder = tmp_path_factory.mktemp("saved")
    train(folder, 5)
    return CheckpointFolder(folder).read("step-00000005")


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.data())
def test_a_forged_state_is_refused_or_harmless(tmp_path_factory, saved, data):
    state = copy.deepcopy(saved.state)
    path = data.draw(st.sampled_from([place for place in places(state) if place]))
    owner = state
    for key in path[:-1]:
        owner = owner[key]
    if data.draw(st.booleans()) and isinstance(owner, dict):
        del owner[path[-1]]
    else:
        owner[path[-1]] = data.draw(JUNK)
    folder = CheckpointFolder(tmp_path_factory.mktemp("forged"))
    folder.write(5, replace(saved, state=state))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(folder.path, 1)
    except CheckpointError as error:
        assert str(folder.path) in str(error) and str(error).isprintable()


def test_a_checkpoint_with_tensors_of_other_names_is_refused(tmp_path, saved):
    folder = CheckpointFolder(tmp_path)
    for change in (
        {"callbacks": {"../x/y": np.zeros(1, "f4")}},
        {"optimizer": {"../0.weight/velocity_0": np.zeros(1)}},
    ):
        folder.write(5, replace(saved, **change))
        with pytest.raises(CheckpointError, match=r"step-00000005|state of"):
            train(tmp_path, 1)
