"""Memory, threads and repetition: what a program holds is its own, and lives as long as it is needed."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading

import numpy as np
import paddle
import pytest
from engine_comparison import PRECISIONS, assert_agree, outcome

from cifar_hapi.engine import onednn
from cifar_hapi.engine.execution import accelerate
from cifar_hapi.networks import build_network

pytestmark = pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")


def images(count, seed=0, side=16):
    return np.random.default_rng(seed).standard_normal((count, 3, side, side)).astype("float32")


def small_network(seed=0, fast=True):
    paddle.seed(seed)
    network = build_network("resnet20", width=4)
    assert not fast or accelerate(network, "float32")
    return network


def trained(network, steps=3, seed=0):
    optimizer = paddle.optimizer.Momentum(0.05, parameters=network.parameters())
    for step in range(steps):
        (network(paddle.to_tensor(images(4, seed + step))) ** 2).mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def assert_equal(found, expected):
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_two_networks_in_two_threads_give_what_they_give_alone():
    alone = [trained(small_network(seed), seed=seed) for seed in (1, 2)]
    networks, found = [small_network(seed) for seed in (1, 2)], {}

    def work(place):
        found[place] = trained(networks[place], seed=place + 1)

    threads = [threading.Thread(target=work, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place in (0, 1):
        assert_equal(found[place], alone[place])


def test_one_network_evaluated_by_four_threads():
    network = small_network()
    network.eval()
    inputs = [paddle.to_tensor(images(3, seed)) for seed in range(4)]
    with paddle.no_grad():
        expected, found = [network(x).numpy() for x in inputs], {}

    def work(place):
        with paddle.no_grad():
            for _ in range(5):
                found[place] = network(inputs[place]).numpy()

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place in range(4):
        np.testing.assert_array_equal(found[place], expected[place])


def test_threads_that_are_the_first_to_call_a_network():
    """The network is looked at while other threads run it."""
    inputs, native = [paddle.to_tensor(images(2, seed)) for seed in range(4)], small_network(fast=False)
    native.eval()
    with paddle.no_grad():
        expected = [native(x).numpy() for x in inputs]
    interval, found = sys.getswitchinterval(), []

    def work(network, place):
        with paddle.no_grad():
            found.append((place, network(inputs[place]).numpy()))

    try:
        sys.setswitchinterval(1e-6)
        for _ in range(4):
            network = small_network()
            network.eval()
            threads = [threading.Thread(target=work, args=(network, place)) for place in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(found) == 16
    for place, output in found:
        assert_agree({"": output}, {"": expected[place]}, 1e-3)


def test_nothing_is_freed_that_a_backward_pass_needs():
    expected, network = outcome(small_network(), images(4)), small_network()
    x = paddle.to_tensor(images(4), stop_gradient=False)
    output = network(x)
    for size in range(200):  # what was freed too early is overwritten now
        np.full(1000 * (size + 1), np.nan, "float32"), paddle.full([100 * (size + 1)], float("nan"))
    gc.collect()
    weights = np.random.default_rng(5).standard_normal(output.shape).astype("float32")
    (output * paddle.to_tensor(weights)).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), expected["gradient of the input"])


def test_programs_beyond_the_bound_go_and_results_stay(monkeypatch):
    monkeypatch.setattr("cifar_hapi.engine.execution._MOST_BYTES", 1)
    network, native = small_network(), small_network(fast=False)
    outputs = [network(paddle.to_tensor(images(count, count))) for count in (1, 2, 3, 4, 5)]  # all in use at once
    for count, output in zip((1, 2, 3, 4, 5), outputs, strict=True):
        assert_agree({"": output.numpy()}, {"": native(paddle.to_tensor(images(count, count))).numpy()}, 1e-3)
        output.sum().backward()
    del outputs, output
    assert len(network.forward._programs._idle) == 1


def test_few_programs_of_one_shape_are_kept():
    network = small_network()
    outputs = [network(paddle.to_tensor(images(2))) for _ in range(4)]
    for output in outputs:
        output.sum().backward()
    (idle,) = network.forward._programs._idle.values()
    assert len(idle) == 2


def test_a_forward_pass_without_a_backward_one_gives_its_memory_back():
    network = small_network()
    for _ in range(4):
        network(paddle.to_tensor(images(2)))
    (idle,) = network.forward._programs._idle.values()
    assert len(idle) == 1


SCRIPT = """
    import os, sys, warnings
    warnings.simplefilter("ignore")
    os.environ["FLAGS_paddle_num_threads"] = sys.argv[1]
    from cifar_hapi.runtime import prepare_process
    prepare_process()
    import hashlib, numpy as np, paddle
    from cifar_hapi import accelerate
    from cifar_hapi.networks import build_network
    paddle.seed(0)
    network = build_network("resnet20", width=int(sys.argv[4]))
    assert accelerate(network, sys.argv[2]).engine == "onednn"
    optimizer = paddle.optimizer.Momentum(0.05, parameters=network.parameters())
    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    steps = int(sys.argv[3])
    for step in range(steps):
        size = 2 + step % 3
        x = np.random.default_rng(step).standard_normal((size, 3, 8, 8)).astype("float32")
        (network(paddle.to_tensor(x)) ** 2).mean().backward()
        optimizer.step()
        optimizer.clear_grad()
        if step == steps // 4:
            early = resident()
    state = b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
    print(hashlib.sha256(state).hexdigest(), resident() - early)
"""


def run_script(threads, precision, steps, width=2):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(threads), precision, str(steps), str(width)]
    digest, growth = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).split()
    return digest, float(growth)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_processes_get_the_same_bits_from_the_same_number_of_threads(precision):
    """One thread gives other bits than two: it adds in another order."""
    first, second = (run_script(2, precision, 8, width=16) for _ in range(2))
    assert first[0] == second[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_two_thousand_steps():
    _, growth = run_script(1, "float32", 2000)
    assert growth < 8, "MiB from step 500 to step 2000"
