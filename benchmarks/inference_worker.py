"""Answers of one network by Paddle or onnxruntime, measured on request; a child of benchmarks.inference."""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.saved_batches import load_batches
from benchmarks.worker import Step, Unavailable, serve

Answer = Callable[[Any], Any]  # from float32 [N, 3, 32, 32] to logits, both NumPy's


def main() -> None:
    parser = worker_parser(__doc__)
    parser.add_argument("--program", choices=("dygraph", "inference", "onnx"), default="dygraph")
    parser.add_argument("--engine", default="native", help="of dygraph")
    parser.add_argument("--precision", default="float32", help="of dygraph; int8 of onnx")
    parser.add_argument("--fold-bn", action="store_true")
    arguments = parser.parse_args()
    serve(lambda: prepare(arguments))


def worker_parser(description: str | None) -> argparse.ArgumentParser:
    """What benchmarks.inference says to each of its children."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--network", required=True)
    parser.add_argument("--images", type=Path, required=True, help="a file of benchmarks.saved_batches")
    parser.add_argument("--batch-sizes", type=int, nargs="+", required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser


def prepare(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Step]]:
    from cifar_hapi.runtime import prepare_process, versions

    prepare_process()
    import paddle

    from benchmarks.paddle_worker import multiply_adds, network_and_width, parameter_count
    from cifar_hapi.networks import build_network

    paddle.seed(0)
    name, width = network_and_width(arguments.network)
    network = build_network(name, width=width)
    network.eval()
    about = {"versions": versions(), "parameters": parameter_count(network), "multiply_adds": multiply_adds(network)}
    answer = {"dygraph": by_dygraph, "inference": by_inference, "onnx": by_onnx}[arguments.program](network, arguments)
    if arguments.program == "onnx":
        import onnxruntime

        about["versions"]["onnxruntime"] = onnxruntime.__version__
    return about, works(answer, arguments.images, arguments.batch_sizes)


def works(answer: Answer, images: Path, batch_sizes: list[int]) -> dict[str, Step]:
    """By batch size, what answers the next batch."""
    return {str(size): step(answer, [batch for batch, _ in load_batches(images, size)]) for size in batch_sizes}


def step(answer: Answer, batches: list[Any]) -> Step:
    each = itertools.cycle(batches)
    return lambda: answer(next(each))


def by_dygraph(network: Any, arguments: argparse.Namespace) -> Answer:
    import paddle

    from benchmarks.paddle_worker import switch_engine

    if arguments.engine != "native":
        switch_engine(network, arguments.engine, arguments.precision)

    def answer(images: Any) -> Any:
        with paddle.no_grad():
            return network(paddle.to_tensor(images)).numpy()

    return answer


def by_inference(network: Any, arguments: argparse.Namespace) -> Answer:
    from cifar_hapi.exporting import paddle_format
    from cifar_hapi.exporting.network import without_padding

    with tempfile.TemporaryDirectory() as folder:
        program = paddle_format.write(without_padding(network), _spec(), Path(folder))
        return paddle_format.open_model(program, arguments.threads)


def by_onnx(network: Any, arguments: argparse.Namespace) -> Answer:
    """Raises Unavailable where the extra is not installed, or this Paddle is too old for it."""
    from cifar_hapi.batch_norm.folding import fold_batch_norm
    from cifar_hapi.errors import RecipeError
    from cifar_hapi.exporting import onnx_format
    from cifar_hapi.exporting.network import without_padding
    from cifar_hapi.exporting.quantisation import quantise

    int8 = arguments.precision == "int8"
    try:
        onnx_format.check_libraries(int8)
    except (ImportError, RecipeError) as error:
        raise Unavailable(str(error)) from None
    if arguments.fold_bn:
        network = fold_batch_norm(network).model
    with tempfile.TemporaryDirectory() as folder:
        file = onnx_format.write(without_padding(network), _spec(), Path(folder), {})
        if not int8:
            return onnx_format.open_model(file, arguments.threads)
        batches = [batch for batch, _ in load_batches(arguments.images, 256)]
        return onnx_format.open_model(quantise(file, batches).SerializeToString(), arguments.threads)


def _spec() -> Any:
    import paddle

    return paddle.static.InputSpec([None, 3, 32, 32], "float32", "images")


if __name__ == "__main__":
    main()
