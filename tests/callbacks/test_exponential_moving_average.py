"""ExponentialMovingAverage: the right average, seen in evaluations and at the end, never in a training step."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.callbacks import Callback
from toy import IMAGES, batches, same_training, toy_model

from callbacks import Checkpoint, EarlyStopping, ExponentialMovingAverage
from cifar_hapi import accelerate


def weights(model):
    return {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}


class Recorder(Callback):
    """The network's weights after each step, and in each evaluation."""

    def __init__(self):
        super().__init__()
        self.steps, self.evaluations = [], []

    def on_train_batch_end(self, step, logs=None):
        self.steps.append(weights(self.model))

    def on_eval_batch_end(self, step, logs=None):
        self.evaluations.append(weights(self.model))


def assert_same(one, other, **close):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], err_msg=name, **{"rtol": 0, **close})


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
@pytest.mark.parametrize("warm_up", [True, False])
def test_it_is_the_average_that_is_evaluated_and_stays(stock, warm_up):
    model, recorder = toy_model(stock), Recorder()
    expected = weights(model)
    callbacks = [ExponentialMovingAverage(0.8, warm_up), recorder]
    model.fit(batches(), batches(), epochs=3, verbose=0, callbacks=callbacks)
    averages = []
    for count, now in enumerate(recorder.steps, 1):
        decay = min(0.8, (1 + count) / (10 + count)) if warm_up else 0.8
        expected = {name: decay * expected[name] + (1 - decay) * now[name] for name in now}
        averages.append(expected)
    for step, evaluated in enumerate(recorder.evaluations):
        assert_same(evaluated, averages[step // 3 * 3 + 2], rtol=1e-5, atol=1e-6)
    assert_same(weights(model), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_training_is_the_same_with_and_without_it(stock):
    recorders = [Recorder(), Recorder()]
    for recorder, more in zip(recorders, ([], [ExponentialMovingAverage(0.8)]), strict=True):
        toy_model(stock).fit(batches(), batches(), epochs=3, verbose=0, callbacks=[*more, recorder])
    for one, other in zip(*(recorder.steps for recorder in recorders), strict=True):
        assert_same(one, other)


def test_after_an_error_in_an_evaluation_the_weights_are_back():
    class Fails(Callback):
        def on_eval_batch_end(self, step, logs=None):
            raise ConnectionError("mine")

    model, recorder = toy_model(), Recorder()
    with pytest.raises(ConnectionError):
        model.fit(batches(), batches(), verbose=0, callbacks=[ExponentialMovingAverage(0.8), recorder, Fails()])
    assert_same(weights(model), recorder.steps[-1])


def test_for_a_while_the_averages_are_in_the_network():
    class Looks(Callback):
        def on_epoch_end(self, epoch, logs=None):
            before = weights(self.model)
            with average.swapped_in():
                inside = weights(self.model)
            assert_same(weights(self.model), before)
            assert not np.array_equal(inside["0.weight"], before["0.weight"])

    average = ExponentialMovingAverage(0.8)
    toy_model().fit(batches(), epochs=2, verbose=0, callbacks=[average, Looks()])


def test_a_checkpoint_has_the_average_to_use_and_the_weights_to_go_on_with(tmp_path):
    recorder, model = Recorder(), toy_model()
    checkpoint = Checkpoint(tmp_path, keep=9)
    model.fit(batches(), epochs=2, verbose=0, callbacks=[ExponentialMovingAverage(0.8), recorder, checkpoint])
    for step, name in ((3, "step-00000003"), (6, "step-00000006")):
        saved = checkpoint.folder.read(name)
        assert_same(saved.training, recorder.steps[step - 1])
        assert not np.array_equal(saved.weights["0.weight"], saved.training["0.weight"])
    assert_same(saved.weights, weights(model))


def test_early_stopping_restores_the_average_that_was_best():
    recorder, model = Recorder(), toy_model(lr=5.0)
    stopping = EarlyStopping("eval_loss", patience=2, restore_best=True)
    callbacks = [ExponentialMovingAverage(0.8), stopping, recorder]
    model.fit(batches(), batches(), epochs=30, verbose=0, callbacks=callbacks)
    assert_same(weights(model), recorder.evaluations[3 * stopping.state.best_epoch])


def test_the_engine_sees_what_is_swapped_in():
    images = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype("float32")
    network = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4), paddle.nn.Flatten())
    accelerate(network)
    network.eval()
    model = paddle.Model(network)
    average = ExponentialMovingAverage(0.8)
    average.set_model(model)
    average.set_params({})
    average.on_train_begin()
    for tensor in network.parameters():
        tensor.set_value(tensor * 3)
    raw = network(paddle.to_tensor(images)).numpy()
    with average.swapped_in():
        assert not np.allclose(network(paddle.to_tensor(images)).numpy(), raw)
    np.testing.assert_array_equal(network(paddle.to_tensor(images)).numpy(), raw)


def test_a_checkpoint_of_a_training_without_evaluation_goes_on_with_the_weights_that_it_had(tmp_path):
    recorder, model, average = Recorder(), toy_model(stock=True), ExponentialMovingAverage(0.8)
    checkpoint = Checkpoint(tmp_path, callbacks=[average])
    model.fit(batches(), epochs=2, verbose=0, callbacks=[average, recorder, checkpoint])
    saved = checkpoint.folder.read("step-00000006")
    assert_same(saved.training, recorder.steps[-1])
    assert_same(saved.weights, weights(model))
    assert not np.array_equal(saved.weights["0.weight"], saved.training["0.weight"])


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
@pytest.mark.parametrize("mode", ["average", "recalculate"])
def test_a_resumed_training_has_the_same_averages(tmp_path, stock, mode):
    def train(folder, epochs):
        model, average = toy_model(stock), averaging(mode)
        checkpoint = Checkpoint(folder, callbacks=[average])
        point = checkpoint.resume(model)
        place = {"epochs": epochs - point.epoch} if stock else {"epochs": epochs, "initial_epoch": point.epoch}
        model.fit(batches(), batches(), shuffle=False, verbose=0, callbacks=[average, checkpoint], **place)
        return weights(model)

    without_a_stop = train(tmp_path / "whole", 4)
    train(tmp_path / "parts", 2)
    assert_same(train(tmp_path / "parts", 4), without_a_stop)
    assert same_training(tmp_path / "whole", tmp_path / "parts") == []


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        ({"averages": {"0.weight": np.zeros((4, 8), "float32")}}, r"is of another network: 0\.bias: none"),
        ({"averages": "float64"}, r"is of another network: 0\.weight: float64, here float32"),
        ({"averages": "int32"}, r"is of another network: 0\.weight: int32, here float32"),
        ({"steps": -10}, "steps: input should be greater than or equal to 0"),
        ({"steps": 1.5}, "steps: input should be a valid integer"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(forged, message):
    average = averaging("average")
    toy_model().fit(batches(), verbose=0, callbacks=average)
    state = average.state_dict()
    if isinstance(forged.get("averages"), str):
        forged = {"averages": {name: array.astype(forged["averages"]) for name, array in state["averages"].items()}}
    with pytest.raises(ValueError, match=f"state of ExponentialMovingAverage: {message}"):
        average.set_state_dict({**state, **forged})
        toy_model().fit(batches(), verbose=0, callbacks=average)


def test_with_every_steps_only_every_such_step_counts():
    model, recorder = toy_model(), Recorder()
    expected = weights(model)
    model.fit(batches(), epochs=3, verbose=0, callbacks=[ExponentialMovingAverage(0.8, every_steps=4), recorder])
    for count, step in ((1, 4), (2, 8)):
        decay = (1 + count) / (10 + count)
        expected = {name: decay * expected[name] + (1 - decay) * now for name, now in recorder.steps[step - 1].items()}
    assert_same(weights(model), expected, rtol=1e-5, atol=1e-6)


def averaging(mode, **options):
    more = {"batch_norm": "recalculate", "batches": batches()} if mode == "recalculate" else {}
    return ExponentialMovingAverage(0.8, **{**more, **options})


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_recalculated_statistics_are_those_of_all_images_under_the_averaged_weights(stock):
    model, recorder = toy_model(stock), Recorder()
    model.fit(batches(), batches(), epochs=2, verbose=0, callbacks=[averaging("recalculate"), recorder])
    for seen in (*recorder.evaluations, weights(model)):
        before_the_norm = IMAGES.astype("float64") @ seen["0.weight"] + seen["0.bias"]
        np.testing.assert_allclose(seen["1._mean"], before_the_norm.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(seen["1._variance"], before_the_norm.var(0), rtol=1e-4)


NORMS = {
    "BatchNorm": (paddle.nn.BatchNorm(3), (6, 3, 2, 2)),
    "BatchNorm1D": (paddle.nn.BatchNorm1D(3), (6, 3)),
    "BatchNorm2D": (paddle.nn.BatchNorm2D(3), (6, 3, 2, 2)),
    "BatchNorm3D": (paddle.nn.BatchNorm3D(3), (6, 3, 2, 2, 2)),
}


@pytest.mark.parametrize(("norm", "shape"), NORMS.values(), ids=NORMS)
def test_dropout_is_off_and_modes_and_momenta_come_back_when_statistics_are_recalculated(norm, shape):
    images = np.random.default_rng(0).standard_normal(shape).astype("float32") + 5
    dropout, frozen = paddle.nn.Dropout(0.9), paddle.nn.BatchNorm1D(3, use_global_stats=True)
    network = paddle.nn.Sequential(dropout, norm, paddle.nn.Flatten(), paddle.nn.Linear(images[0].size, 3), frozen)
    network.train()
    dropout.eval()
    average = ExponentialMovingAverage(batch_norm="recalculate", batches=[[images[:4]], [images[4:]]])
    average.set_model(paddle.Model(network))
    average.set_params({})
    average.on_train_begin()
    before = weights(average.model)
    with average.swapped_in():
        axes = tuple(axis for axis in range(len(shape)) if axis != 1)
        np.testing.assert_allclose(norm._mean.numpy(), images.mean(axes), rtol=1e-5)
        np.testing.assert_allclose(norm._variance.numpy(), images.var(axes), rtol=1e-4)
        assert (norm.training, norm._momentum, dropout.training) == (True, 0.9, False)
        np.testing.assert_array_equal(frozen._mean.numpy(), 0)
    assert_same(weights(average.model), before)


def test_a_layer_that_was_frozen_in_training_keeps_its_statistics():
    class Freezes(Callback):
        def on_train_batch_begin(self, step, logs=None):
            self.model.network.train()
            self.model.network[1].eval()

    model, recorder = toy_model(), Recorder()
    model.fit(batches(), batches(), verbose=0, callbacks=[averaging("recalculate"), recorder, Freezes()])
    for each in ("1._mean", "1._variance"):
        np.testing.assert_array_equal(recorder.evaluations[-1][each], recorder.steps[-1][each])


def test_training_does_not_notice_that_statistics_are_recalculated_from_shuffled_batches():
    class Shuffled:
        def __iter__(self):
            return iter([batches()[place] for place in np.random.permutation(3)])

        def __len__(self):
            return 3

    recorders = [Recorder(), Recorder()]
    for recorder, more in zip(recorders, ([], [averaging("recalculate", batches=Shuffled())]), strict=True):
        np.random.seed(0)
        toy_model().fit(Shuffled(), batches(), epochs=3, verbose=0, callbacks=[*more, recorder])
    for one, other in zip(*(recorder.steps for recorder in recorders), strict=True):
        assert_same(one, other)


def test_batches_that_can_be_gone_through_only_once_are_refused_and_the_weights_are_back():
    model, recorder = toy_model(), Recorder()
    average = averaging("recalculate", batches=iter(batches()))
    with pytest.raises(ValueError, match="batches has none"):
        model.fit(batches(), batches(), epochs=2, verbose=0, callbacks=[average, recorder])
    assert_same(weights(model), recorder.steps[-1])


def test_a_swap_within_a_swap_ends_with_the_outer_one():
    class Looks(Callback):
        def on_eval_begin(self, logs=None):
            with average.swapped_in():
                pass

    average, recorder, plain = ExponentialMovingAverage(0.8), Recorder(), Recorder()
    toy_model().fit(batches(), batches(), epochs=2, verbose=0, callbacks=[average, Looks(), recorder])
    toy_model().fit(batches(), batches(), epochs=2, verbose=0, callbacks=plain)
    assert_same(recorder.steps[-1], plain.steps[-1])
    assert not np.array_equal(recorder.evaluations[0]["0.weight"], recorder.steps[2]["0.weight"])


def test_without_a_training_there_is_nothing_to_swap_in():
    with pytest.raises(RuntimeError, match="no averages before fit"), ExponentialMovingAverage().swapped_in():
        pass


def test_weights_in_half_precision_are_refused():
    network = paddle.nn.Linear(2, 2)
    network.to(dtype="float16")
    average = ExponentialMovingAverage()
    average.set_model(paddle.Model(network))
    average.set_params({})
    with pytest.raises(ValueError, match=r"weight is paddle\.float16: too coarse"):
        average.on_train_begin()


@pytest.mark.parametrize("decay", [0, 1, -0.1, 2])
def test_a_decay_that_cannot_be_is_refused(decay):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        ExponentialMovingAverage(decay)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_steps": 0}, "every_steps = 0: must be at least 1"),
        ({"batch_norm": "recalibrate"}, "batch_norm = 'recalibrate'"),
        ({"batch_norm": "recalculate"}, "it needs them"),
        ({"batches": []}, "batches go with"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ExponentialMovingAverage(**options)
