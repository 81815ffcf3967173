"""Mixed precision as far as a CPU can tell: what is asked of Paddle, what comes out, and the loss scale at work."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from toy import IMAGES, batches, toy_model

from cifar_hapi.metrics import TopK
from cifar_hapi.mixed_precision import GradScaler, gpu_precision, use_mixed_precision
from cifar_hapi.model import Model


@pytest.fixture
def gpu(monkeypatch):
    """Sets the compute capability of the GPU that Paddle tells of."""

    def set_capability(*capability):
        monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda device: capability)

    set_capability(8, 0)
    return set_capability


@pytest.fixture
def casts(monkeypatch):
    """What `auto_cast` was asked for; under it `Casting` computes in that type, as convolutions do on a GPU."""
    asked = []

    @contextlib.contextmanager
    def auto_cast(enable=True, level="O1", dtype="float16", **lists):
        asked.append((level, dtype) if enable else None)
        yield
        asked.append("left")

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    return asked


class Casting(paddle.nn.Layer):
    def __init__(self, casts):
        super().__init__()
        self.linear = paddle.nn.Linear(4, 3)
        self.casts = casts

    def forward(self, images):
        outputs = self.linear(images)
        asked = self.casts[-1] if self.casts else None
        return outputs.astype(asked[1]) if isinstance(asked, tuple) else outputs


@pytest.mark.parametrize(
    ("allowed", "device", "capability", "used"),
    [
        ("float32", "gpu:0", (9, 0), "float32"),
        ("bfloat16", "gpu:0", (9, 0), "bfloat16"),
        ("bfloat16", "gpu:1", (8, 0), "bfloat16"),
        ("bfloat16", "gpu:0", (7, 5), "float32"),
        ("float16", "gpu:0", (7, 0), "float16"),
        ("float16", "gpu:0", (6, 1), "float32"),
        ("bfloat16", "cpu", (8, 0), "float32"),
        ("float16", "cpu", (8, 0), "float32"),
    ],
)
def test_a_precision_is_used_where_a_gpu_computes_in_it(gpu, allowed, device, capability, used):
    gpu(*capability)
    assert gpu_precision(allowed, device) == used


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_evaluation_and_prediction_run_under_autocast_and_give_float32(gpu, casts, precision):
    network = Casting(casts)
    model = Model(network)
    assert use_mixed_precision(network, precision, "gpu:0") == precision
    model.prepare(paddle.optimizer.SGD(parameters=network.parameters()), paddle.nn.CrossEntropyLoss(), [TopK()])
    images, labels = batches()[0]

    for call in (model.train_batch, model.eval_batch):
        casts.clear()
        losses, _ = call([images], [labels])
        assert [cast for cast in casts if isinstance(cast, tuple)] == [("O1", precision)]
        assert losses[0].dtype == np.float32
    casts.clear()
    assert model.predict_batch([images])[0].dtype == np.float32
    assert casts == [("O1", precision), "left"]
    rounded = network.linear(paddle.to_tensor(images)).astype(precision).astype("float32")
    np.testing.assert_array_equal(model.predict_batch([images])[0], rounded.numpy())
    assert {tensor.dtype for tensor in network.state_dict().values()} == {paddle.float32}


def test_on_a_cpu_the_forward_pass_stays_as_it_was(casts):
    network = Casting(casts)
    before = network(paddle.to_tensor(IMAGES)).numpy()
    assert use_mixed_precision(network, "bfloat16", "cpu") == "float32"
    np.testing.assert_array_equal(network(paddle.to_tensor(IMAGES)).numpy(), before)
    assert casts == []


def test_leaving_by_an_error_leaves_autocast(gpu):
    class Fails(paddle.nn.Layer):
        def forward(self, images):
            raise RuntimeError("mine")

    network = Fails()
    use_mixed_precision(network, "float16", "gpu:0")
    with pytest.warns(UserWarning, match="amp_guard"), pytest.raises(RuntimeError, match="mine"):
        network(paddle.zeros([1]))


def test_without_amp_there_is_no_scaler():
    model = toy_model()
    assert model.scaler is None
    model.fit(batches(), epochs=1, verbose=0)
    assert model.scaler is None


@pytest.fixture
def scaling_on_a_cpu(monkeypatch):
    """Paddle enables its GradScaler on a GPU only; the arithmetic is there on a CPU too."""
    gpu_place = SimpleNamespace(is_gpu_place=lambda: True)
    monkeypatch.setattr(paddle.amp.grad_scaler, "_dygraph_tracer", lambda: SimpleNamespace(_expected_place=gpu_place))


def with_amp(**configs):
    model = toy_model()
    model.prepare(model.optimizer, model.loss, model.metrics, amp_configs={"level": "O1", **configs})
    return model


def scale_of(model):
    return model.scaler.state_dict()["scale"].item()


def trained(model):
    return [parameter for parameter in model.network.parameters() if not parameter.stop_gradient]


def weights(model):
    return {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}


@pytest.mark.filterwarnings("ignore:amp_guard")
def test_training_uses_the_scaler_of_the_model_and_a_power_of_two_changes_nothing(scaling_on_a_cpu):
    plain, scaled = toy_model(), with_amp(init_loss_scaling=1024.0, incr_every_n_steps=4)
    scaler = scaled.scaler
    for model in (plain, scaled):
        model.fit(batches(), epochs=2, verbose=0)
    assert scaled.scaler is scaler and scale_of(scaled) == 2048
    assert scaler.state_dict()["incr_count"] == 2
    for name, value in weights(plain).items():
        np.testing.assert_array_equal(weights(scaled)[name], value, err_msg=name)


@pytest.mark.filterwarnings("ignore:amp_guard")
def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_halves_in_silence(scaling_on_a_cpu, capfd):
    model = with_amp(init_loss_scaling=1024.0, decr_every_n_nan_or_inf=2)
    model._loss = lambda outputs, labels: outputs.sum() * float("inf")
    before = [parameter.numpy() for parameter in trained(model)]
    scales = []
    for images, labels in batches()[:2] * 2:
        model.train_batch([images], [labels])
        scales.append(scale_of(model))
    assert scales == [1024, 512, 512, 256]
    for parameter, value in zip(trained(model), before, strict=True):
        np.testing.assert_array_equal(parameter.numpy(), value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore:amp_guard")
def test_the_scale_follows_paddles_own_rule(scaling_on_a_cpu):
    configs = {"init_loss_scaling": 64.0, "incr_every_n_steps": 3, "decr_every_n_nan_or_inf": 2, "incr_ratio": 4.0}
    overflows = [False, True, False, True, True, False, False, True, False, False, False, False]
    ours, paddles = GradScaler(**configs), paddle.amp.GradScaler(**configs)
    for overflow in overflows:
        for scaler in (ours, paddles):
            scaler._found_inf = paddle.to_tensor([overflow])
            scaler._cache_found_inf = scaler._cache_founf_inf = overflow  # 3.3 and 2.6
            scaler._scale = scaler._scale.reshape([])  # what Paddle prints, NumPy 2.4 can make of no other shape
            scaler._update()
        assert ours.state_dict() == paddles.state_dict()
    assert ours.state_dict()["scale"] == 128


@pytest.mark.filterwarnings("ignore:amp_guard")
def test_a_scaler_goes_on_from_a_state_that_was_saved(scaling_on_a_cpu):
    first, second = (with_amp(init_loss_scaling=1024.0, incr_every_n_steps=4) for _ in range(2))
    first.fit(batches(), epochs=1, verbose=0)
    second.scaler.load_state_dict(first.scaler.state_dict())
    second.fit(batches(), epochs=1, verbose=0)
    assert scale_of(second) == 2048
