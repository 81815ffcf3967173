"""Training and evaluation of one network with Paddle, measured on request; a child of benchmarks.training."""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

from benchmarks.saved_batches import Batches, load_batches
from benchmarks.worker import Step, Unavailable, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", required=True)
    parser.add_argument("--images", type=Path, required=True, help="a file of benchmarks.saved_batches")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--eval-batch-size", type=int, required=True)
    parser.add_argument("--settings", action="store_true", help="prepare the process as the command line does")
    parser.add_argument("--engine", default="native")
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    serve(lambda: prepare(arguments))


def prepare(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Step]]:
    if arguments.settings:
        from cifar_hapi.runtime import prepare_process

        prepare_process()
    from cifar_hapi.networks import build_network
    from cifar_hapi.runtime import versions

    name, width = network_and_width(arguments.network)
    network = build_network(name, width=width)
    about = {"versions": versions(), "parameters": parameter_count(network), "multiply_adds": multiply_adds(network)}
    model = prepared_model(network, arguments.engine, arguments.precision)
    return about, {
        "training": training_step(model, load_batches(arguments.images, arguments.batch_size)),
        "evaluation": evaluation_step(model, load_batches(arguments.images, arguments.eval_batch_size)),
    }


def network_and_width(text: str) -> tuple[str, int | None]:
    """The parts of "airbench@32"; without a width, the network has its own."""
    name, _, width = text.partition("@")
    return name, int(width) if width else None


def prepared_model(network: Any, engine: str = "native", precision: str = "float32") -> Any:
    """A `paddle.Model` with cross-entropy and Momentum: all Paddle's own for "native", else as a recipe gets them.

    Raises Unavailable where the engine can't be had.
    """
    import paddle

    if engine == "native":
        if precision != "float32":
            raise Unavailable("Paddle's own kernels are measured in float32 alone")
        model, loss = paddle.Model(network), paddle.nn.CrossEntropyLoss()
        optimizer = paddle.optimizer.Momentum(
            1e-3, 0.9, parameters=network.parameters(), use_nesterov=True, weight_decay=5e-4
        )
    else:
        from cifar_hapi.loss import CrossEntropy
        from cifar_hapi.model import Model
        from cifar_hapi.optimizer import build_optimizer
        from cifar_hapi.recipe import OptimizerRecipe, ScheduleRecipe

        switch_engine(network, engine, precision)
        model, loss = Model(network), CrossEntropy()
        recipe = OptimizerRecipe(lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_norm=True)
        optimizer = build_optimizer(recipe, ScheduleRecipe(), network, steps_per_epoch=100, epochs=1)
    model.prepare(optimizer, loss)
    return model


def switch_engine(network: Any, engine: str, precision: str) -> None:
    """Make `network` run on exactly that engine in that precision; raises Unavailable where it can't."""
    from cifar_hapi.engine import use_engine
    from cifar_hapi.errors import RecipeError

    try:
        choice = use_engine(network, engine, precision, "cpu")
    except RecipeError as error:
        raise Unavailable(str(error)) from None
    if (choice.engine, choice.precision) != (engine, precision):
        raise Unavailable(f"runs as {choice.engine}, {choice.precision}: {choice.why}")


def training_step(model: Any, batches: Batches) -> Step:
    """Forward, loss, backward and update by `train_batch`, over the batches again and again."""
    each = itertools.cycle(batches)

    def step() -> None:
        images, labels = next(each)
        result = model.train_batch([images], [labels])
        (loss,) = result[0] if isinstance(result, tuple) else result  # before what metrics say, where there are any
        if not math.isfinite(float(loss)):
            raise ArithmeticError(f"the training loss is {float(loss)}: what was measured is no training")

    return step


def evaluation_step(model: Any, batches: Batches) -> Step:
    """Forward alone, by `predict_batch`."""
    each = itertools.cycle(batches)
    return lambda: model.predict_batch([next(each)[0]])


def parameter_count(network: Any) -> int:
    """Numbers that are trained; running statistics are none."""
    return sum(parameter.size for parameter in network.parameters() if not parameter.stop_gradient)


def multiply_adds(network: Any, side: int = 32) -> int:
    """Multiplications of convolutions and linear layers in the forward pass of one image of `side` x `side`.

    Each weight is used once for every place of the output, padding included, as the field counts them.
    """
    import paddle

    found = 0

    def count(layer: Any, inputs: Any, output: Any) -> None:
        nonlocal found
        features = layer._out_channels if isinstance(layer, paddle.nn.Conv2D) else layer.weight.shape[1]
        found += layer.weight.size * (output.size // features)

    counted = [layer for layer in network.sublayers() if isinstance(layer, paddle.nn.Conv2D | paddle.nn.Linear)]
    hooks = [layer.register_forward_post_hook(count) for layer in counted]
    was_training = network.training
    network.eval()
    with paddle.no_grad():
        network(paddle.zeros([1, 3, side, side]))
    network.train() if was_training else network.eval()
    for hook in hooks:
        hook.remove()
    return int(found)


if __name__ == "__main__":
    main()
