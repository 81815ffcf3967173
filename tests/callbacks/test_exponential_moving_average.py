"""ExponentialMovingAverage: the right average, seen in evaluations and at the end, never in a training step."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.callbacks import Callback
from toy import batches, toy_model

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


@pytest.mark.parametrize("decay", [0, 1, -0.1, 2])
def test_a_decay_that_cannot_be_is_refused(decay):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        ExponentialMovingAverage(decay)
