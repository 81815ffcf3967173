"""BatchNormStats: the right numbers at the right moments, each once, and a training that does not notice."""

from __future__ import annotations

import os
import signal
import warnings
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.callbacks import Callback
from toy import IMAGES, Stop, batches, same_training, toy_model

from callbacks import (
    BatchNormStats,
    Checkpoint,
    CheckpointError,
    EarlyStopping,
    ExponentialMovingAverage,
    load_bn_stats,
)
from callbacks.bn_layout import summary
from callbacks.paddle_model import loss_scale, norm_tensors
from cifar_hapi.engine import onednn
from cifar_hapi.engine.execution import accelerate
from cifar_hapi.model import Model
from cifar_hapi.networks import build_network

BOTH = pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
NAMES = {"running_mean": "_mean", "running_variance": "_variance", "scale": "weight", "shift": "bias"}


class Spy(Callback):
    """The batch-norm tensors of the toy before training and after each step."""

    def on_train_begin(self, logs=None):
        self.seen = []
        self.look()

    def on_train_batch_end(self, step, logs=None):
        self.look()

    def look(self):
        state = self.model.network.state_dict()
        self.seen.append({name: state[f"1.{tensor}"].numpy() for name, tensor in NAMES.items()})


def fitted(path, stock=False, epochs=3, evaluated=True, before=(), after=(), model=None, **options):
    """Records of a training of the toy, three steps an epoch, and what it was after each step."""
    spy, model = Spy(), model or toy_model(stock)
    callbacks = [*before, spy, BatchNormStats(path, **options), *after]
    model.fit(batches(), batches() if evaluated else None, epochs=epochs, verbose=0, callbacks=callbacks)
    return load_bn_stats(path), spy.seen


@BOTH
@pytest.mark.parametrize("channels", ["all", "summary"])
def test_records_hold_what_the_layer_held_before_training_and_after_each_epoch(tmp_path, stock, channels):
    records, seen = fitted(tmp_path / "bn.jsonl", stock, channels=channels)
    assert (records.steps.tolist(), records.epochs.tolist()) == ([0, 3, 6, 9], [0, 1, 2, 3])
    assert records.layers == ("1",) and records.channels == {"1": 8}
    for name in NAMES:
        expected = np.stack([seen[step][name] for step in records.steps])
        np.testing.assert_array_equal(records["1", name], expected if channels == "all" else summary(expected))


@BOTH
@pytest.mark.parametrize(
    ("every", "steps", "epochs"),
    [
        ({}, [0, 3, 6, 9, 12], [0, 1, 2, 3, 4]),
        ({"every_epochs": 2}, [0, 6, 12], [0, 2, 4]),
        ({"every_epochs": None}, [0], [0]),
        ({"every_epochs": None, "every_steps": 5}, [0, 5, 10], [0, 2, 4]),
        ({"every_epochs": 2, "every_steps": 2}, [0, 2, 4, 6, 8, 10, 12], [0, 1, 2, 2, 3, 4, 4]),
        ({"every_steps": 1}, list(range(13)), [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]),
    ],
)
@pytest.mark.parametrize("evaluated", [True, False])
def test_every_so_many_steps_and_epochs_and_no_step_twice(tmp_path, stock, every, steps, epochs, evaluated):
    records, _ = fitted(tmp_path / "bn.jsonl", stock, 4, evaluated, **every)
    assert (records.steps.tolist(), records.epochs.tolist()) == (steps, epochs)


def test_changes_are_since_the_last_record_and_not_a_number_in_the_first(tmp_path):
    records, seen = fitted(tmp_path / "bn.jsonl", every_epochs=None, every_steps=2)
    for name in NAMES:
        values = np.stack([seen[step][name] for step in records.steps]).astype("float64")
        expected = [np.nan, *np.linalg.norm(np.diff(values, axis=0), axis=1)]
        np.testing.assert_allclose(records["1", f"{name}_change"], expected, rtol=1e-6)


@BOTH
@pytest.mark.parametrize("more", ["average", "best"])
def test_weights_that_others_put_in_for_a_while_are_not_recorded(tmp_path, stock, more):
    """An average that is evaluated, and best weights that are put back, whatever the order and without evaluations."""
    for evaluated in (True, False) if more == "average" else (True,):
        for place in ("before", "after"):
            other = {
                "average": ExponentialMovingAverage(0.5),
                "best": EarlyStopping("eval_loss", mode="max", restore_best=True, patience=9),
            }
            path = tmp_path / f"{place}-{evaluated}.jsonl"
            records, seen = fitted(path, stock, evaluated=evaluated, channels="all", **{place: [other[more]]})
            for name in NAMES:
                np.testing.assert_array_equal(records["1", name], [seen[step][name] for step in records.steps])


def sgd_toy(stock, rate=0.5):
    model = toy_model(stock)
    model.prepare(paddle.optimizer.SGD(rate, parameters=model.parameters()), nn.CrossEntropyLoss())
    return model


def assert_gradients_are_steps(records, layer, rate, places=slice(1, None)):
    """By plain SGD, a change is the rate times the gradient."""
    for name in ("scale", "shift"):
        gradients = records[layer, f"{name}_gradient"]
        assert np.isnan(gradients[0]) and (gradients[1:] > 0).all()
        np.testing.assert_allclose(records[layer, f"{name}_change"][places], rate * gradients[places], rtol=1e-3)


@BOTH
def test_gradients_are_those_of_the_step_before_the_record(tmp_path, stock):
    records, _ = fitted(tmp_path / "bn.jsonl", stock, model=sgd_toy(stock), every_steps=1, gradients=True)
    assert len(records) == 10
    assert_gradients_are_steps(records, "1", 0.5)


@pytest.mark.parametrize(("stock", "known"), [(False, True), (False, False), (True, True)])
def test_an_epochs_record_has_the_gradients_of_its_last_step(tmp_path, stock, known):
    class Batches:
        def __iter__(self):
            return iter(batches())

    class Sized(Batches):
        def __len__(self):
            return 3

    whole, paths = [], [tmp_path / "steps.jsonl", tmp_path / "epochs.jsonl"]
    for path, every in zip(paths, (1, None), strict=True):
        callback = BatchNormStats(path, every_steps=every, gradients=True)
        sgd_toy(stock).fit(Sized() if known else Batches(), epochs=2, verbose=0, callbacks=[callback])
        whole.append(load_bn_stats(path))
    for name in ("scale_gradient", "shift_gradient"):
        np.testing.assert_array_equal(whole[0]["1", name][[0, 3, 6]], whole[1]["1", name])


@BOTH
def test_gradients_of_batches_that_are_added_up_are_their_sum(tmp_path, stock):
    path = tmp_path / "bn.jsonl"
    callback = BatchNormStats(path, gradients=True)
    sgd_toy(stock).fit(batches(), epochs=2, verbose=0, callbacks=[callback], accumulate_grad_batches=3)
    assert_gradients_are_steps(load_bn_stats(path), "1", 0.5)


def conv_model():
    paddle.seed(0)
    network = nn.Sequential(
        nn.Conv2D(3, 4, 3, bias_attr=False),
        nn.BatchNorm2D(4),
        nn.ReLU(),
        nn.Conv2D(4, 5, 3, bias_attr=False),
        nn.BatchNorm2D(5),
        nn.AdaptiveAvgPool2D(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    model = Model(network)
    model.prepare(paddle.optimizer.SGD(0.5, parameters=network.parameters()), nn.CrossEntropyLoss())
    return model


RNG = np.random.default_rng(2)
MAPS = [[RNG.standard_normal((4, 3, 8, 8)).astype("float32"), RNG.integers(0, 3, (4, 1))] for _ in range(3)]


@pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")
def test_under_the_engine_all_is_recorded_and_training_stays_the_same_bit_for_bit(tmp_path):
    path, weights = tmp_path / "bn.jsonl", []
    for recorded in (False, True):
        model = conv_model()
        assert accelerate(model.network, "float32")
        callback = BatchNormStats(path, every_steps=1, probe=MAPS[0], gradients=True, channels="all")
        model.fit(MAPS, epochs=2, verbose=0, callbacks=[callback] if recorded else [])
        weights.append({name: tensor.numpy().tobytes() for name, tensor in model.network.state_dict().items()})
    assert weights[0] == weights[1]
    records = load_bn_stats(path)
    for layer in ("1", "4"):
        assert_gradients_are_steps(records, layer, 0.5)
        assert np.isfinite(records[layer, "batch_mean"]).all() and (records[layer, "batch_variance"] > 0).all()
        assert ((records[layer, "cut"] >= 0) & (records[layer, "cut"] <= 1)).all()


class Noisy(nn.Layer):
    """A network whose training draws random numbers and moves statistics."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1D(4), nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.drop(self.norm(x)))


@BOTH
def test_training_is_bit_for_bit_the_same_without_it(tmp_path, stock):
    def weights(callbacks):
        paddle.seed(0)
        np.random.seed(0)
        network = Noisy()
        model = (paddle.Model if stock else Model)(network)
        model.prepare(paddle.optimizer.Adam(0.1, parameters=network.parameters()), nn.CrossEntropyLoss())
        data = paddle.io.DataLoader(
            paddle.io.TensorDataset([IMAGES, np.zeros((23, 1), "int64")]), batch_size=8, shuffle=True
        )
        model.fit(data, data, epochs=2, verbose=0, callbacks=callbacks)
        return {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}

    recorded = BatchNormStats(tmp_path / "bn.jsonl", every_steps=1, probe=IMAGES, gradients=True)
    assert weights([recorded]) == weights([])


def test_what_is_frozen_or_not_there_or_not_called_is_not_a_number(tmp_path):
    class Parts(nn.Layer):
        def __init__(self):
            super().__init__()
            self.bare = nn.BatchNorm1D(4, weight_attr=False, bias_attr=False)
            self.frozen, self.last = nn.BatchNorm1D(4), nn.Linear(4, 3)
            self.frozen.weight.stop_gradient = True
            self.unused = nn.BatchNorm1D(2)

        def forward(self, x):
            return self.last(self.frozen(self.bare(x)))

    network = Parts()
    model = Model(network)
    model.prepare(paddle.optimizer.SGD(0.1, parameters=network.parameters()), nn.CrossEntropyLoss())
    callback = BatchNormStats(tmp_path / "bn.jsonl", probe=IMAGES, gradients=True, channels="all")
    model.fit(batches(), epochs=1, verbose=0, callbacks=[callback])
    records = load_bn_stats(tmp_path / "bn.jsonl")
    missing = {
        (layer, name)
        for layer in records.layers
        for name in records.quantities
        if np.isnan(records[layer, name][1]).all()
    }
    bare = {
        ("bare", name)
        for name in ("scale", "shift", "scale_change", "shift_change", "scale_gradient", "shift_gradient")
    }
    unused = {("unused", name) for name in ("batch_mean", "batch_variance", "cut", "scale_gradient", "shift_gradient")}
    assert missing == bare | unused | {("frozen", "scale_gradient"), ("frozen", "shift_gradient")}


def test_numbers_that_are_not_finite_are_recorded_as_they_are(tmp_path):
    class Breaks(Callback):
        def on_train_batch_end(self, step, logs=None):
            self.model.network[1]._mean.set_value(np.array([np.nan, np.inf, -np.inf] + [1.0] * 5, "float32"))

    records, _ = fitted(tmp_path / "bn.jsonl", epochs=2, before=[Breaks()], channels="all")
    np.testing.assert_array_equal(records["1", "running_mean"][1], [np.nan, np.inf, -np.inf] + [1] * 5)


def test_a_loss_scale_is_taken_out_of_gradients(tmp_path):
    plain, _ = fitted(tmp_path / "plain.jsonl", model=sgd_toy(stock=True), gradients=True)
    model = sgd_toy(stock=True)
    model._scaler = SimpleNamespace(_scale=paddle.to_tensor(4.0))
    scaled, _ = fitted(tmp_path / "scaled.jsonl", model=model, gradients=True)
    np.testing.assert_allclose(scaled["1", "scale_gradient"][1:], plain["1", "scale_gradient"][1:] / 4, rtol=1e-6)


def test_paddles_scaler_keeps_its_scale_where_it_is_looked_for(monkeypatch):
    model = toy_model()
    assert loss_scale(model) is None
    model._scaler = paddle.amp.GradScaler(enable=False)
    assert loss_scale(model) is None
    gpu_place = SimpleNamespace(is_gpu_place=lambda: True)  # it is enabled on a GPU only
    monkeypatch.setattr(paddle.amp.grad_scaler, "_dygraph_tracer", lambda: SimpleNamespace(_expected_place=gpu_place))
    model._scaler = paddle.amp.GradScaler(init_loss_scaling=8.0)
    assert loss_scale(model).item() == 8


def test_an_epoch_that_ends_before_its_last_batch_says_that_it_has_no_gradients(tmp_path):
    path = tmp_path / "bn.jsonl"
    with pytest.warns(UserWarning, match="step 5 has no gradients: the epoch ended without a batch that was known"):
        sgd_toy(False).fit(batches(), num_iters=5, verbose=0, callbacks=[BatchNormStats(path, gradients=True)])
    records = load_bn_stats(path)
    assert records.steps.tolist() == [0, 3, 5]
    assert np.isnan(records["1", "scale_gradient"]).tolist() == [True, False, True]


KINDS = [
    (nn.BatchNorm1D, {}),
    (nn.BatchNorm2D, {"data_format": "NHWC"}),
    (nn.BatchNorm3D, {"weight_attr": False}),
    (nn.BatchNorm, {"act": "relu"}),
    (nn.SyncBatchNorm, {}),
]


def test_every_kind_of_layer_is_recorded_in_the_networks_order(tmp_path):
    """Also a change in where Paddle keeps their tensors would be seen here."""
    network = nn.LayerDict({f"{place}": kind(place + 2, **options) for place, (kind, options) in enumerate(KINDS)})
    for layer in network.sublayers():
        for place, tensor in enumerate(norm_tensors(layer).values()):
            if tensor is not None:
                tensor.set_value(np.full(tensor.shape, place + 1, "float32"))
    callback = begun(tmp_path / "bn.jsonl", network)
    records = load_bn_stats(callback.path)
    assert records.layers == ("0", "1", "2", "3", "4") and list(records.channels.values()) == [2, 3, 4, 5, 6]
    for layer in records.layers:
        found = [records.summary(layer, name)[0, 2] for name in NAMES]
        np.testing.assert_array_equal(found, [1, 2, np.nan, 4] if layer == "2" else [1, 2, 3, 4])


def begun(path, network, **options):
    """A callback at the begin of a training that is never driven further."""
    callback = BatchNormStats(path, **options)
    callback.set_model(paddle.Model(network))
    callback.set_params({"epochs": 1, "steps": 1})
    callback.on_train_begin({})
    return callback


def test_resnet18_takes_a_few_kilobytes_a_record(tmp_path):
    network = build_network("resnet18", num_classes=10)
    sizes = {}
    for channels in ("summary", "all"):
        path = begun(tmp_path / channels, network, channels=channels).path
        sizes[channels] = len(path.read_bytes().splitlines()[1])
    assert sizes["summary"] < 4_000 and sizes["all"] < 105_000
    assert 390 // 2 * sizes["summary"] < 1e6  # an epoch of CIFAR-10, a record every other step


def test_a_record_is_one_copy_from_the_device(tmp_path, monkeypatch):
    copies, numpy = [], paddle.Tensor.numpy
    monkeypatch.setattr(paddle.Tensor, "numpy", lambda tensor, *args: copies.append(1) or numpy(tensor, *args))
    network = build_network("resnet20", num_classes=10)
    begun(tmp_path / "bn.jsonl", network, probe=paddle.zeros([2, 3, 32, 32]), gradients=True)
    assert len(copies) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_epochs": 0}, "BatchNormStats: every_epochs = 0: must be at least 1"),
        ({"every_steps": -1}, "BatchNormStats: every_steps = -1: must be at least 1"),
        ({"channels": "some"}, 'BatchNormStats: channels = \'some\': "summary" or "all"'),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BatchNormStats("bn.jsonl", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_steps": 1.5}, "BatchNormStats: every_steps = 1.5: must be a whole number, or None"),
        ({"every_epochs": True}, "BatchNormStats: every_epochs = True: must be a whole number, or None"),
        ({"gradients": "yes"}, "BatchNormStats: gradients = 'yes': must be True or False"),
        ({"path": None}, "BatchNormStats: path is a NoneType: name a file"),
    ],
)
def test_options_of_another_kind_are_refused(options, message):
    with pytest.raises(TypeError, match=message):
        BatchNormStats(**{"path": "bn.jsonl", **options})


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("x", "probe: str: expected one batch, an array or a list of inputs"),
        (paddle.io.DataLoader(paddle.io.TensorDataset([paddle.ones([2, 4])])), "probe: DataLoader: expected one batch"),
        (np.ones((0, 4), "float32"), r"probe: \[0, 4\]: holds no images"),
    ],
)
def test_a_probe_that_is_no_batch_is_told(tmp_path, probe, message):
    with pytest.raises(ValueError, match=rf"^BatchNormStats: {message}"):
        toy_model().fit(batches(), verbose=0, callbacks=BatchNormStats(tmp_path / "bn.jsonl", probe=probe))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"BatchNormStats: path = .*: is a folder; name a file in it"):
        BatchNormStats(tmp_path)


@pytest.mark.parametrize("probe", [20, np.ones((2, 5), "float32"), np.ones((2, 4), "uint8")])
def test_a_probe_that_the_network_does_not_take_is_told_and_an_earlier_file_stays(tmp_path, probe):
    file = tmp_path / "bn.jsonl"
    file.write_text("earlier")
    with pytest.raises(ValueError, match=r"^BatchNormStats: probe: .*: 0, a Linear, expects float32 \[N"):
        toy_model().fit(batches(), verbose=0, callbacks=BatchNormStats(file, probe=probe))
    assert file.read_text() == "earlier"


def test_a_network_without_batch_norm_is_refused(tmp_path):
    with pytest.raises(ValueError, match="BatchNormStats: the network has no batch-norm layer"):
        begun(tmp_path / "bn.jsonl", nn.Linear(4, 3))


def test_a_network_that_is_one_layer_is_recorded_under_an_empty_name(tmp_path):
    assert load_bn_stats(begun(tmp_path / "bn.jsonl", nn.BatchNorm1D(3)).path).layers == ("",)


def test_only_the_first_process_records(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.bn_stats.is_writer", lambda: False)
    toy_model().fit(batches(), epochs=1, verbose=0, callbacks=[BatchNormStats(tmp_path / "bn.jsonl", gradients=True)])
    assert not list(tmp_path.iterdir())


def test_a_record_that_cannot_be_written_is_warned_of_and_the_next_takes_its_place(tmp_path, monkeypatch):
    path, callback = tmp_path / "bn.jsonl", BatchNormStats(tmp_path / "bn.jsonl")
    write = os.fsync
    calls = []

    def full_disk(handle):
        calls.append(handle)
        if len(calls) in (5, 6):  # an epoch's record, tried twice; before it, the header's and another record's
            path.write_bytes(path.read_bytes()[:-9])
            raise OSError(28, "No space left on device")
        write(handle)

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.warns(UserWarning, match=r"bn\.jsonl: step \d not recorded: No space left on device; training goes on"):
        toy_model().fit(batches(), epochs=4, verbose=0, callbacks=[callback])
    records = load_bn_stats(path)
    assert len(records) == 4 and set(records.steps) < {0, 3, 6, 9, 12} and records.steps[-1] == 12
    assert callback.state.records == 4


def test_an_instance_serves_two_fits_and_each_begins_anew(tmp_path):
    callback = BatchNormStats(tmp_path / "bn.jsonl")
    for epochs in (3, 1):
        toy_model().fit(batches(), epochs=epochs, verbose=0, callbacks=[callback])
        assert load_bn_stats(callback.path).epochs.tolist() == list(range(epochs + 1))


def test_recording_may_begin_later_in_a_training(tmp_path):
    callback = BatchNormStats(tmp_path / "bn.jsonl")
    toy_model().fit(batches(), epochs=4, verbose=0, callbacks=[callback], initial_epoch=2, initial_step=1)
    records = load_bn_stats(callback.path)
    assert (records.steps.tolist(), records.epochs.tolist()) == ([7, 9, 12], [3, 3, 4])


EVERYTHING = {"every_steps": 2, "probe": IMAGES, "gradients": True, "channels": "all"}


def train(folder, stop_after=None, stock=False, epochs=4, keep=3, torn=False, more=(), **options):
    """Go on with the training in `folder`, or begin it; crash after `stop_after` steps, perhaps in a line."""
    model = toy_model(stock)
    others = [ExponentialMovingAverage(0.9), BatchNormStats(folder / "bn.jsonl", **{**EVERYTHING, **options})]
    checkpoint = Checkpoint(folder, every_steps=None if stock else 1, keep=keep, callbacks=others)
    point = checkpoint.resume(model)
    place = {"epochs": epochs - point.epoch}
    if not stock:
        place = {"epochs": epochs, "initial_epoch": point.epoch, "initial_step": point.batch}
    try:
        model.fit(batches(), batches(), verbose=0, callbacks=[*others, *more, checkpoint, Stop(stop_after)], **place)
    except ConnectionError:
        checkpoint.__exit__()
        with (folder / "bn.jsonl").open("ab") as file:
            file.write(b'{"step": 99, "ep' * torn)
    return point


@BOTH
@pytest.mark.parametrize(("steps", "torn"), [(1, True), (4, False), (6, False), (7, True)])
def test_a_training_that_goes_on_leaves_the_file_of_one_that_never_stopped(tmp_path, stock, steps, torn):
    train(tmp_path / "whole", stock=stock)
    train(tmp_path / "cut", steps, stock, torn=torn)
    if not stock:
        train(tmp_path / "cut", 2, torn=torn)
    train(tmp_path / "cut", stock=stock)
    files = [(tmp_path / name / "bn.jsonl").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1] and same_training(tmp_path / "whole", tmp_path / "cut") == []


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@BOTH
def test_a_signal_in_an_evaluation_leaves_no_gap_and_no_other_gradients(tmp_path, stock):
    class Signal(Callback):
        def on_eval_begin(self, logs=None):
            signal.raise_signal(signal.SIGTERM)

    train(tmp_path / "whole", stock=stock)
    with pytest.raises(SystemExit):
        train(tmp_path / "cut", stock=stock, more=[Signal()])
    train(tmp_path / "cut", stock=stock)
    files = [(tmp_path / name / "bn.jsonl").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_going_on_from_an_older_checkpoint_drops_what_came_after_it_and_makes_it_again(tmp_path):
    train(tmp_path / "whole")
    train(tmp_path / "cut", 11, keep=20)
    for file in sorted(tmp_path.glob("cut/step-*"))[4:]:
        (file / "MANIFEST.json").unlink()
    assert load_bn_stats(tmp_path / "cut" / "bn.jsonl").steps[-1] == 10
    with pytest.warns(UserWarning, match="passed over for an older one"):
        assert train(tmp_path / "cut", 1, keep=20).step == 4
    assert load_bn_stats(tmp_path / "cut" / "bn.jsonl").steps.tolist() == [0, 2, 3, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(tmp_path / "cut", keep=20)
    assert (tmp_path / "whole" / "bn.jsonl").read_bytes() == (tmp_path / "cut" / "bn.jsonl").read_bytes()


def test_records_that_are_gone_are_warned_of_and_it_goes_on_without_them(tmp_path):
    path = tmp_path / "bn.jsonl"
    train(tmp_path, 7)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.warns(
        UserWarning, match=r"bn\.jsonl: 1 of 5 records up to step 6 are missing; it goes on without them"
    ):
        train(tmp_path, 2)
    assert load_bn_stats(path).steps.tolist() == [0, 2, 3, 4, 8, 9]
    path.unlink()
    with pytest.warns(UserWarning, match=r"bn\.jsonl: 5 of 5 records up to step 8 are missing"):
        train(tmp_path)
    assert load_bn_stats(path).steps.tolist() == [9, 10, 12]


@pytest.mark.parametrize("changed", [{"channels": "summary"}, {"probe": None}, {"gradients": False}])
def test_a_file_of_other_settings_is_not_gone_on_with(tmp_path, changed):
    train(tmp_path, 4)
    before = (tmp_path / "bn.jsonl").read_bytes()
    with pytest.raises(
        CheckpointError, match=r"bn\.jsonl, line 1: of other layers or other settings; to go on, remove"
    ):
        train(tmp_path, **changed)
    assert (tmp_path / "bn.jsonl").read_bytes() == before


def test_how_often_may_change(tmp_path):
    train(tmp_path, 4)
    train(tmp_path, every_steps=None)
    assert load_bn_stats(tmp_path / "bn.jsonl").steps.tolist() == [0, 2, 3, 4, 6, 9, 12]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"records": -1}, "records: input should be greater than or equal to 0"),
        ({"step": "x"}, "step: "),
        ({"last": {"1": np.zeros((4, 7), "float32")}}, r"state of BatchNormStats: is of another network: 1: \[4, 7\]"),
        ({"last": {"2": np.zeros((4, 8), "float32")}}, "state of BatchNormStats: is of another network: 1: none"),
    ],
)
def test_a_forged_state_is_refused(tmp_path, state, message):
    callback, model = BatchNormStats(tmp_path / "bn.jsonl"), toy_model()
    model.fit(batches(), epochs=1, verbose=0, callbacks=[callback])
    with pytest.raises((ValueError, CheckpointError), match=message):
        callback.set_state_dict({**callback.state_dict(), **state})
        model.fit(batches(), epochs=2, verbose=0, callbacks=[callback], initial_epoch=1)
