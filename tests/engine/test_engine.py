"""The oneDNN engine computes what Paddle's own kernels compute, whatever happens between two calls."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from engine_comparison import PRECISIONS, needs_bfloat16
from small_training import small_fit

from cifar_hapi import evaluate, load
from cifar_hapi.engine import onednn, use_engine
from cifar_hapi.engine.execution import accelerate
from cifar_hapi.loss import CrossEntropy
from cifar_hapi.networks import build_network, network_names

pytestmark = pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")
LABELS = paddle.to_tensor(np.random.default_rng(0).integers(0, 10, 6))


def images(count=6, side=20, data_format="NCHW"):
    shape = (count, 3, side, side) if data_format == "NCHW" else (count, side, side, 3)
    return paddle.to_tensor(np.random.default_rng(count).standard_normal(shape).astype("float32"))


def network(name="resnet20", width=8, **options):
    paddle.seed(1)
    return build_network(name, width=width, **options)


def step(net, x, labels=LABELS):
    """Loss, gradients and running statistics of one forward and backward pass in training mode."""
    net.train()
    net.clear_gradients()
    loss = CrossEntropy()(net(x), labels)
    loss.backward()
    gradients = {name: each.grad.numpy() for name, each in net.named_parameters() if each.grad is not None}
    statistics = {name: each.numpy() for name, each in net.state_dict().items() if "_mean" in name or "_var" in name}
    return float(loss), gradients, statistics


def evaluated(net, x):
    net.eval()
    with paddle.no_grad():
        return net(x).numpy()


def assert_close(found, expected, tolerance):
    """In the norm over all values: where a ReLU's input is zero but for rounding, single gradients may differ."""
    assert found.keys() == expected.keys()
    flat = [np.concatenate([each[name].ravel() for name in expected]) for each in (found, expected)]
    assert np.linalg.norm(flat[0] - flat[1]) < tolerance * np.linalg.norm(flat[1])


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", [name for name in network_names() if name not in ("plain44", "plain56", "resnet110")])
def test_every_network_computes_what_it_computes_natively(name, data_format):
    x = images(data_format=data_format)
    both = []
    for engine in ("native", "onednn"):
        net = network(name, data_format=data_format)
        assert use_engine(net, engine, "float32", "cpu").engine == engine
        both.append((*step(net, x), evaluated(net, x)))
    (loss, gradients, statistics, logits), (loss2, gradients2, statistics2, logits2) = both
    assert loss2 == pytest.approx(loss, rel=1e-4)
    assert_close(gradients2, gradients, 0.05)
    assert_close(statistics2, statistics, 1e-4)
    np.testing.assert_allclose(logits2, logits, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("resnet20", "plain20", "resnet18", "speednet", "airbench")),
        ("airbench11", {"activation": "gelu"}),
    ],
)
def test_twenty_steps_of_training_go_the_same_way(name, options):
    """At a small rate: training is chaotic, and any two float32 implementations part in the end."""
    losses, states, labels = [], [], paddle.to_tensor(np.random.default_rng(0).integers(0, 10, 16))
    for fast in (False, True):
        net = network(name, width=4, **options)
        assert not fast or accelerate(net, "float32")
        optimizer = paddle.optimizer.Momentum(0.0005, parameters=net.parameters())
        losses.append([])
        for _ in range(20):
            losses[-1].append(step(net, images(16, 32), labels)[0])
            optimizer.step()
        states.append({key: each.numpy() for key, each in net.state_dict().items()})
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.01, atol=0.01)
    assert_close(states[1], states[0], 0.01)


@needs_bfloat16
def test_bfloat16_is_near():
    net, fast = network(), network()
    use_engine(fast, "onednn", "bfloat16", "cpu")
    x = images()
    (loss, gradients, _), (loss2, gradients2, _) = step(net, x), step(fast, x)
    assert loss2 == pytest.approx(loss, rel=0.02) and loss2 != loss
    assert_close(gradients2, gradients, 0.25)
    np.testing.assert_allclose(evaluated(fast, x), evaluated(net, x), atol=0.1)


@pytest.mark.parametrize(("count", "side"), [(1, 32), (2, 9), (5, 33), (3, 17)])
def test_odd_sizes_and_single_images(count, side):
    net, fast = network(), network()
    accelerate(fast, "float32")
    x, labels = images(count, side), LABELS[:count]
    (loss, gradients, _), (loss2, gradients2, _) = step(net, x, labels), step(fast, x, labels)
    assert loss2 == pytest.approx(loss, rel=1e-4)
    assert_close(gradients2, gradients, 0.05)


def trains_on(net):
    step(net, images())
    paddle.optimizer.Momentum(0.1, parameters=net.parameters()).step()


def loads_other_weights(net):
    net.set_state_dict({name: tensor * 1.5 for name, tensor in net.state_dict().items()})


def averages_weights(net):
    for parameter in net.parameters():
        parameter.set_value(parameter * 0.5)


def moves_statistics(net):
    net.train()
    with paddle.no_grad():
        net(images() * 2 + 1)


def assigns_a_weight(net):
    net.stem.conv.weight = paddle.create_parameter(net.stem.conv.weight.shape, "float32")


@pytest.mark.parametrize(
    "change", [trains_on, loads_other_weights, averages_weights, moves_statistics, assigns_a_weight]
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_evaluation_is_never_stale(change, precision):
    net, twin, x = network(), network(), images()
    accelerate(net, precision)
    start = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    results = [evaluated(net, x)]
    for _ in range(2):
        change(net)
        results.append(evaluated(net, x))
        twin.set_state_dict(net.state_dict())
        tolerance = 1e-3 if precision == "float32" else 0.05
        assert_close({"": results[-1]}, {"": evaluated(twin, x)}, tolerance)
        assert not np.allclose(results[-1], results[-2], atol=1e-2)
    net.set_state_dict(start)
    np.testing.assert_array_equal(evaluated(net, x), results[0])


def test_two_forward_passes_before_their_backward_passes():
    net, fast = network(), network()
    accelerate(fast, "float32")
    first, second = images(6), images(6) * 0.5
    found = []
    for each in (net, fast):
        each.train()
        losses = [CrossEntropy()(each(x), LABELS) for x in (first, second)]
        for loss in losses:
            loss.backward()
        found.append({name: tensor.grad.numpy() for name, tensor in each.named_parameters() if tensor.grad is not None})
    assert_close(found[1], found[0], 0.05)


def test_the_input_gets_a_gradient_where_it_needs_one():
    found = []
    for fast in (False, True):
        net, x = network(), images()
        x.stop_gradient = False
        if fast:
            accelerate(net, "float32")
        step(net, x)
        found.append({"x": x.grad.numpy()})
    assert_close(found[1], found[0], 0.05)


def test_frozen_parameters_get_no_gradient():
    net = network()
    accelerate(net, "float32")
    frozen = net.stem.conv.weight
    frozen.stop_gradient = True
    _, gradients, _ = step(net, images())
    assert "stem.conv.weight" not in gradients and "head.weight" in gradients


@pytest.mark.parametrize("disturbance", ["hook", "frozen statistics", "one layer in evaluation mode"])
def test_hooks_and_frozen_statistics_mean_what_they_mean_natively(disturbance):
    seen, results = [], []
    for fast in (False, True):
        net = network()
        assert not fast or accelerate(net, "float32")
        net.train()
        if disturbance == "hook":
            net.stem.register_forward_post_hook(lambda *arguments: seen.append(1))
        if disturbance == "frozen statistics":
            net.stem.norm._use_global_stats = True
        if disturbance == "one layer in evaluation mode":
            net.stem.norm.eval()
        logits = net(images())
        logits.sum().backward()
        statistics = {name: each.numpy() for name, each in net.state_dict().items()}
        gradients = {name: each.grad.numpy() for name, each in net.named_parameters() if each.grad is not None}
        results.append(({"logits": logits.numpy(), **statistics}, gradients))
    assert_close(results[1][0], results[0][0], 1e-4)
    assert_close(results[1][1], results[0][1], 0.05)
    assert len(seen) == (2 if disturbance == "hook" else 0)


def test_nan_passes_through_to_the_statistics():
    net, x = network(), images()
    accelerate(net, "float32")
    x[0, 0, 0, 0] = float("nan")
    _, _, statistics = step(net, x)
    assert np.isnan(statistics["stem.norm._mean"]).all()


def test_the_same_steps_give_the_same_bits():
    runs = []
    for _ in range(2):
        net = network()
        accelerate(net, "bfloat16")
        optimizer = paddle.optimizer.Momentum(0.1, parameters=net.parameters())
        for _ in range(3):
            step(net, images())
            optimizer.step()
        runs.append({name: tensor.numpy() for name, tensor in net.state_dict().items()})
    for name, value in runs[0].items():
        np.testing.assert_array_equal(value, runs[1][name], err_msg=name)


def test_a_run_made_by_one_engine_is_evaluated_by_the_other(small_cifar, tmp_path):
    run = small_fit(small_cifar, tmp_path / "run", **{"engine": "onednn"})
    assert run.manifest["engine"] == "onednn" and run.status == "finished"
    assert evaluate(run)["loss"] == run.evaluation["loss"]
    run.manifest["recipe"]["engine"] = "native"
    assert evaluate(run)["loss"] == pytest.approx(run.evaluation["loss"], rel=1e-4)
    native = load(run).network(paddle.zeros([1, 3, 32, 32])).numpy()
    assert np.isfinite(native).all()
