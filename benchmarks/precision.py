"""What bfloat16 costs in accuracy: the same short training in float32 and in bfloat16, over several seeds.

    CIFAR_HAPI_DATA=... python -m benchmarks.precision --recipe resnet20 --epochs 2 --seeds 3

Top-1 on all test images, for each seed, with mean and standard deviation; seconds in training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from cifar_hapi.runtime import prepare_process

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="resnet20")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    prepare_process()
    found: dict[str, list[dict[str, float]]] = {precision: [] for precision in PRECISIONS}
    for seed in range(arguments.seeds):
        for precision in PRECISIONS:
            found[precision].append(trained(arguments, seed, precision))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{'top-1, %':<10}"
        + "".join(f"seed {seed:>2}  " for seed in range(arguments.seeds))
        + "   mean    std  seconds"
    )
    for precision, runs in found.items():
        top1 = [100 * run["top1"] for run in runs]
        spread = statistics.stdev(top1) if len(top1) > 1 else 0.0
        seconds = statistics.mean(run["seconds"] for run in runs)
        print(
            f"{precision:<10}"
            + "".join(f"{value:>7.2f}  " for value in top1)
            + f"{statistics.mean(top1):>7.2f} {spread:>6.2f} {seconds:>8.0f}"
        )


def trained(arguments: argparse.Namespace, seed: int, precision: str) -> dict[str, float]:
    from cifar_hapi import fit

    with tempfile.TemporaryDirectory() as folder:
        run = fit(
            arguments.recipe,
            data=arguments.data,
            epochs=arguments.epochs,
            seed=seed,
            run_dir=Path(folder) / "run",
            verbose=0,
            **{"precision": precision, "engine": "onednn", "schedule.name": "one_cycle"},
        )
        assert run.manifest["precision"] == precision, f"this CPU does not compute in {precision}"
        assert run.evaluation is not None
        return {"top1": run.evaluation["top1"], "seconds": sum(record["seconds"] for record in run.history)}


if __name__ == "__main__":
    main()
