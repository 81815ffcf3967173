"""What `runtime.prepare_process` gains: images a second of a training step in stock Paddle, with and without it.

    python -m benchmarks.process_settings

Each measurement is a process of its own, because the settings take effect when Paddle loads; the contenders take turns,
and the table shows medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

NETWORKS = {"resnet20": {"width": 16}, "speednet": {"width": 16}}
CONTENDERS = ("stock Paddle", "with the settings")
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "FLAGS_paddle_num_threads", "MKL_DEBUG_CPU_TYPE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=7, help="timed steps in each, after 2 to warm up")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.batch_size, arguments.steps)))
        return
    speeds = {contender: [] for contender in CONTENDERS}
    for _ in range(arguments.rounds):
        for contender in CONTENDERS:
            speeds[contender].append(measure_in_child(contender, arguments.batch_size, arguments.steps))
    medians = {
        contender: {name: statistics.median(found[name] for found in each) for name in NETWORKS}
        for contender, each in speeds.items()
    }
    if arguments.json:
        print(json.dumps(medians, indent=2))
        return
    print(f"{f'images/s, batch {arguments.batch_size}':<22}" + "".join(f"{name:>12}" for name in NETWORKS))
    for contender, found in medians.items():
        print(f"{contender:<22}" + "".join(f"{found[name]:>12.0f}" for name in NETWORKS))


def measure_in_child(contender: str, batch_size: int, steps: int) -> dict[str, float]:
    clean = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    command = [sys.executable, "-m", "benchmarks.process_settings", "--measure", contender]
    command += ["--batch-size", str(batch_size), "--steps", str(steps)]
    return json.loads(subprocess.check_output(command, env=clean, stderr=subprocess.DEVNULL, text=True))


def measure(contender: str, batch_size: int, steps: int) -> dict[str, float]:
    """Images a second by network: the median training step of a `paddle.Model`."""
    if contender != "stock Paddle":
        from cifar_hapi.runtime import prepare_process

        prepare_process()
    return {name: _images_per_second(name, batch_size, steps, **options) for name, options in NETWORKS.items()}


def _images_per_second(name: str, batch_size: int, steps: int, width: int) -> float:
    import numpy as np
    import paddle

    from cifar_hapi.networks import build_network

    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, 3, 32, 32)).astype("float32")
    labels = rng.integers(0, 10, batch_size)
    model = paddle.Model(build_network(name, width=width))
    model.prepare(paddle.optimizer.Momentum(0.01, parameters=model.network.parameters()), paddle.nn.CrossEntropyLoss())
    seconds = []
    for _ in range(2 + steps):
        start = time.perf_counter()
        model.train_batch([images], [labels])
        seconds.append(time.perf_counter() - start)
    return batch_size / statistics.median(seconds[2:])


if __name__ == "__main__":
    main()
