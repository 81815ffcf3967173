"""cifar_hapi.Model beside paddle.Model: the same calls, the numbers of the whole set."""

from __future__ import annotations

import io

import numpy as np
import paddle
import pytest
from paddle.callbacks import (
    Callback,
    EarlyStopping,
    LRScheduler,
    ModelCheckpoint,
    ProgBarLogger,
    ReduceLROnPlateau,
)
from rich.console import Console

from callbacks import Progress
from cifar_hapi.loss import CrossEntropy
from cifar_hapi.metrics import TopK
from cifar_hapi.model import Model

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((23, 4)).astype("float32")
LABELS = RNG.integers(0, 3, 23)


def batches(size: int = 8):
    """The 23 samples as batches; the last one is short unless `size` is 23."""
    return [(IMAGES[start : start + size], LABELS[start : start + size]) for start in range(0, len(IMAGES), size)]


def model(lr=0.1, loss=None, metrics=None, cls=Model):
    paddle.seed(0)
    network = paddle.nn.Sequential(
        paddle.nn.Linear(4, 8), paddle.nn.BatchNorm1D(8), paddle.nn.ReLU(), paddle.nn.Linear(8, 3)
    )
    made = cls(network)
    optimizer = paddle.optimizer.Momentum(lr, parameters=network.parameters())
    made.prepare(optimizer, loss or CrossEntropy(), [TopK()] if metrics is None else metrics)
    return made


class Recorder(Callback):
    """Every call with the identity and a copy of its logs."""

    def __init__(self):
        super().__init__()
        self.calls = []


def _record(name):
    def method(self, *args):
        *place, logs = args if args else (None,)
        self.calls.append((name, place[0] if place else None, dict(logs or {}), id(logs)))
        self.alive = [*getattr(self, "alive", []), logs]  # so that no two dictionaries share an id

    return method


for _kind in ("train", "eval", "predict"):
    for _moment in ("begin", "end", "batch_begin", "batch_end"):
        setattr(Recorder, f"on_{_kind}_{_moment}", _record(f"{_kind}_{_moment}"))
for _moment in ("begin", "end"):
    setattr(Recorder, f"on_epoch_{_moment}", _record(f"epoch_{_moment}"))


def fitted(recorder=None, **options):
    recorder = recorder or Recorder()
    made = model()
    made.fit(batches(), **{"eval_data": batches(), "verbose": 0, "callbacks": [recorder], **options})
    return made, recorder


def logs_of(recorder, name):
    return [(place, logs) for call, place, logs, _ in recorder.calls if call == name]


def test_the_loss_of_an_evaluation_is_the_mean_over_all_images():
    made = model()
    found = made.evaluate(batches(), verbose=0)
    logits = made.predict(batches(), stack_outputs=True, verbose=0)[0].astype("float64")
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(23), LABELS]
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert found["acc"] == pytest.approx((logits.argmax(axis=1) == LABELS).mean())


@pytest.mark.parametrize("size", [1, 5, 23])
def test_an_evaluation_does_not_depend_on_the_batch_size(size):
    made = model()
    assert made.evaluate(batches(size), verbose=0) == pytest.approx(made.evaluate(batches(8), verbose=0), rel=1e-5)


def test_the_loss_of_an_epoch_is_the_mean_over_its_images():
    _, recorder = fitted(epochs=1)
    steps = [logs for _, logs in logs_of(recorder, "train_batch_end")]
    expected = sum(logs["batch_loss"] * logs["batch_size"] for logs in steps) / 23
    assert [logs["batch_size"] for logs in steps] == [8, 8, 7]
    assert logs_of(recorder, "epoch_end")[0][1]["loss"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epochs", "eval_freq", "evaluated"),
    [(1, 5, [0]), (6, 5, [4, 5]), (4, 2, [1, 3]), (5, 2, [1, 3, 4]), (3, 1, [0, 1, 2])],
)
def test_evaluation_takes_place_every_nth_epoch_and_after_the_last(epochs, eval_freq, evaluated):
    _, recorder = fitted(epochs=epochs, eval_freq=eval_freq)
    assert [epoch for epoch, logs in logs_of(recorder, "epoch_end") if "eval_loss" in logs] == evaluated


def test_training_and_evaluation_metrics_stand_side_by_side_at_the_end_of_an_epoch():
    made, recorder = fitted(epochs=1)
    logs = logs_of(recorder, "epoch_end")[0][1]
    assert list(logs) == ["loss", "acc", "eval_loss", "eval_acc"]
    again = made.evaluate(batches(), verbose=0)
    assert (logs["eval_loss"], logs["eval_acc"]) == (again["loss"], again["acc"])


def test_every_call_gets_logs_of_its_own():
    _, recorder = fitted(epochs=2)
    identities = [identity for _, _, _, identity in recorder.calls]
    assert len(set(identities)) == len(identities)


def test_epochs_begin_at_the_initial_one_and_the_loader_is_told():
    told = []

    class Loader(list):
        def set_epoch(self, epoch):
            told.append(epoch)

    recorder, made = Recorder(), model()
    made.fit(Loader(batches()), epochs=5, initial_epoch=3, verbose=0, callbacks=recorder)
    assert [epoch for epoch, _ in logs_of(recorder, "epoch_begin")] == [3, 4] == told


@pytest.mark.parametrize(("num_iters", "per_epoch"), [(1, [1]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1])])
def test_num_iters_ends_training_after_so_many_steps(num_iters, per_epoch):
    _, recorder = fitted(num_iters=num_iters)
    names = [name for name, *_ in recorder.calls if name in ("epoch_begin", "train_batch_end")]
    assert [len(part) for part in "".join(name[0] for name in names).split("e")[1:]] == per_epoch


def test_the_order_of_calls_is_that_of_paddle_but_for_evaluation_inside_the_epoch():
    ours, stock = Recorder(), Recorder()
    model().fit(batches(), batches(), epochs=2, verbose=0, callbacks=ours)
    model(cls=paddle.Model).fit(batches(), batches(), epochs=2, verbose=0, callbacks=stock)
    names = [
        [(name, place) for name, place, *_ in recorder.calls if not name.startswith("epoch_end")]
        for recorder in (ours, stock)
    ]
    assert names[0] == names[1]
    assert ours.calls[-2][0] == "epoch_end"


def test_training_steps_are_those_of_paddle():
    weights = []
    for cls in (Model, paddle.Model):
        made = model(cls=cls)
        made.fit(batches(), epochs=2, verbose=0)
        weights.append({name: tensor.numpy() for name, tensor in made.network.state_dict().items()})
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][name], err_msg=name)


@pytest.mark.parametrize("ks", [[], [(1, 2)]], ids=["losses alone", "with metrics"])
def test_a_batch_gives_what_it_gives_in_paddle(ks):
    ours, stock = (model(metrics=[TopK(k) for k in ks], cls=cls) for cls in (Model, paddle.Model))
    for step, (images, labels) in enumerate(batches() * 2):
        here, there = (each.train_batch([images], [labels[:, None]], update=step % 2 == 1) for each in (ours, stock))
        np.testing.assert_equal(here, there)
    for name, value in stock.network.state_dict().items():
        np.testing.assert_array_equal(ours.network.state_dict()[name], value, name)


def test_a_layer_set_to_eval_by_a_callback_stays_so_while_the_rest_trains():
    made = model()
    made.train_batch([IMAGES], [LABELS])
    norm = made.network[1]
    before = norm._mean.numpy()
    norm.eval()
    made.train_batch([IMAGES], [LABELS])
    np.testing.assert_array_equal(norm._mean, before)
    made.network.eval()
    made.train_batch([IMAGES], [LABELS])
    assert not np.array_equal(norm._mean, before)


def test_gradients_accumulate_over_batches_and_the_last_ones_are_used():
    rates = []

    class Count(Callback):
        def on_train_batch_end(self, step, logs=None):
            rates.append(self.model.network[0].weight.numpy().copy())

    made = model()
    before = made.network[0].weight.numpy().copy()
    made.fit(batches(), epochs=1, verbose=0, accumulate_grad_batches=2, callbacks=Count())
    changed = [not np.array_equal(old, new) for old, new in zip([before, *rates], rates, strict=False)]
    assert changed == [False, True, True]


def test_label_smoothing_counts_in_training_only():
    made = model(lr=1e-9, loss=CrossEntropy(label_smoothing=0.5))
    plain = model().evaluate(batches(23), verbose=0)["loss"]
    assert made.evaluate(batches(23), verbose=0)["loss"] == pytest.approx(plain, rel=1e-5)
    recorder = Recorder()
    made.fit(batches(23), batches(23), epochs=1, verbose=0, callbacks=recorder)
    made.network.train()
    logits = made.network(paddle.to_tensor(IMAGES)).numpy().astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    smoothed = -(0.5 * log_p[np.arange(23), LABELS] + 0.5 * log_p.mean(axis=1)).mean()
    assert logs_of(recorder, "epoch_end")[0][1]["loss"] == pytest.approx(smoothed, rel=1e-4)


def test_stock_callbacks_work(tmp_path):
    class Data(paddle.io.Dataset):
        def __getitem__(self, index):
            return IMAGES[index], LABELS[index]

        def __len__(self):
            return len(IMAGES)

    made = model(lr=paddle.optimizer.lr.StepDecay(0.1, step_size=1, gamma=0.5))
    stock = [
        ProgBarLogger(verbose=0),
        ModelCheckpoint(1, str(tmp_path)),
        EarlyStopping("acc", mode="max", patience=0, baseline=2.0, save_best_model=True, verbose=0),
        LRScheduler(by_step=False, by_epoch=True),
    ]
    made.fit(Data(), Data(), batch_size=8, epochs=5, verbose=0, save_dir=str(tmp_path), callbacks=stock)
    assert made.optimizer.get_lr() == pytest.approx(0.1 * 0.5), "stopped after one epoch, and stepped by epoch"
    assert (tmp_path / "0.pdparams").exists() and (tmp_path / "final.pdparams").exists()


def test_reduce_lr_on_plateau_of_paddle_works():
    made = model()
    made.fit(
        batches(),
        batches(),
        epochs=4,
        verbose=0,
        callbacks=ReduceLROnPlateau("acc", mode="min", patience=0, factor=0.5, verbose=0),
    )
    assert made.optimizer.get_lr() < 0.1


def test_a_schedule_moves_by_step_unless_told_otherwise():
    made = model(lr=paddle.optimizer.lr.StepDecay(1.0, step_size=1, gamma=0.5))
    made.fit(batches(), epochs=1, verbose=0)
    assert made.optimizer.get_lr() == pytest.approx(1 / 8)


def test_two_fits_of_one_model_start_afresh():
    made = model()

    class Stop(Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    made.fit(batches(), epochs=3, verbose=0, callbacks=Stop())
    recorder = Recorder()
    made.fit(batches(), epochs=2, verbose=0, callbacks=recorder)
    assert len(logs_of(recorder, "epoch_end")) == 2


def test_a_callback_that_is_a_context_manager_is_left_after_an_error():
    class Guard(Callback):
        entered = left = False

        def __enter__(self):
            self.entered = True

        def __exit__(self, *error):
            self.left = error[0] is KeyboardInterrupt

        def on_train_batch_end(self, step, logs=None):
            raise KeyboardInterrupt

    guard = Guard()
    with pytest.raises(KeyboardInterrupt):
        model().fit(batches(), verbose=0, callbacks=guard)
    assert guard.entered and guard.left


def test_several_losses_and_several_metrics_have_their_names():
    made = model(loss=lambda out, label: [paddle.mean(out), paddle.mean(out) * 2], metrics=[TopK((1, 2)), TopK((3,))])
    found = made.evaluate(batches(), verbose=0)
    assert list(found) == ["loss", "acc", "top2", "top3"] and found["top3"] == 1.0


def test_without_metrics_or_loss_nothing_is_invented():
    assert list(model(metrics=[]).evaluate(batches(), verbose=0)) == ["loss"]
    made = model()
    made.prepare(metrics=[TopK()])
    assert list(made.evaluate(batches(), verbose=0)) == ["acc"]


@pytest.mark.parametrize("data", [[], iter(())])
def test_training_on_no_data_is_an_error_or_no_step(data):
    made = model()
    if data == []:
        with pytest.raises(ValueError, match="no batch"):
            made.fit(data, verbose=0)
    else:
        made.fit(data, verbose=0)


def test_silence_is_silent_and_progress_shows_the_epochs(capfd):
    fitted(epochs=1)
    assert capfd.readouterr() == ("", "")
    text = io.StringIO()
    model().fit(batches(), batches(), epochs=2, verbose=1, callbacks=[Progress(console=Console(file=text, width=200))])
    lines = text.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all(key in lines[0] for key in ("loss", "acc", "eval_loss", "eval_acc", "images/s"))


def test_predict_gives_every_output_once_and_in_order():
    made = model()
    parts = made.predict(batches(), verbose=0)
    whole = made.predict(batches(23), stack_outputs=True, verbose=0)
    assert [len(part) for part in parts[0]] == [8, 8, 7]
    np.testing.assert_allclose(np.concatenate(parts[0]), whole[0], rtol=1e-5)


def test_the_number_of_inputs_is_read_from_the_network():
    class Two(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.linear = paddle.nn.Linear(4, 3)

        def forward(self, first, second):
            return self.linear(first + second)

    made = Model(Two())
    made.prepare(paddle.optimizer.SGD(parameters=made.network.parameters()), CrossEntropy(), [TopK()])
    made.fit([(images, images, labels) for images, labels in batches()], epochs=1, verbose=0)
    (outputs,) = made.predict([(images, images) for images, _ in batches()], stack_outputs=True, verbose=0)
    assert outputs.shape == (23, 3)
