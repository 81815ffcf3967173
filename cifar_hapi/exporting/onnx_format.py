"""ONNX, from Paddle's inference format by paddle2onnx, run by onnxruntime; they are the extra `onnx`."""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from callbacks.durable import write_file
from cifar_hapi.errors import RecipeError
from cifar_hapi.exporting import paddle_format
from cifar_hapi.exporting.conversion import converted
from cifar_hapi.exporting.network import INPUT, OUTPUT, Answer

_LIBRARIES = ("paddle2onnx", "onnx", "onnxruntime")


def check_libraries(int8: bool = False) -> None:
    """Raise ImportError where the extra is not installed, RecipeError where this Paddle is too old for it."""
    if paddle.__version__.startswith("2."):
        raise RecipeError(
            f"format = 'onnx': paddle2onnx 2 needs Paddle 3, this is {paddle.__version__}; "
            "take --format paddle, or install a newer Paddle"
        )
    for name in (*_LIBRARIES, *(["onnxruntime.quantization"] if int8 else [])):
        library(name)


def library_versions() -> dict[str, str]:
    return {name: str(library(name).__version__) for name in _LIBRARIES}


def write(network: nn.Layer, spec: paddle.static.InputSpec, folder: Path, facts: dict[str, Any]) -> Path:
    """Write `network` as `folder`/model.onnx, and `facts` into its metadata_props; what is no text, as JSON."""
    onnx = library("onnx")
    with tempfile.TemporaryDirectory() as beside:
        model = onnx.load_model_from_string(converted(paddle_format.write(network, spec, Path(beside))))
    _name_ends(model)
    _remove_unused_constants(model)
    file = folder / "model.onnx"
    save(model, facts, file)
    return file


def save(model: Any, facts: dict[str, Any], file: Path) -> None:
    """Write an onnx.ModelProto to `file`, `facts` being its metadata_props; what is no text, as JSON."""
    onnx = library("onnx")
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    write_file(file, model.SerializeToString())


def open_model(model: Path | bytes, threads: int | None = None) -> Answer:
    """The model as a program elsewhere would load it, on the CPU; None lets onnxruntime choose the threads."""
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    given = model if isinstance(model, bytes) else str(model)
    session = runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])

    def answer(images: np.ndarray) -> np.ndarray:
        return session.run([OUTPUT], {INPUT: images})[0]

    return answer


def _name_ends(model: Any) -> None:
    """Call the output and the number of images what they are; paddle2onnx numbers them."""
    (entry,), (result,) = model.graph.input, model.graph.output
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [OUTPUT if name == result.name else name for name in names]
    result.name = OUTPUT
    for end in (entry, result):
        end.type.tensor_type.shape.dim[0].dim_param = "N"


def _remove_unused_constants(model: Any) -> None:
    """Those that paddle2onnx leaves behind; onnxruntime warns of each as it loads a model."""
    used = {name for node in model.graph.node for name in node.input}
    for node in list(model.graph.node):
        if node.op_type == "Constant" and node.output[0] not in used:
            model.graph.node.remove(node)


def library(name: str) -> Any:
    """A module of the extra. Raises ImportError, which says what to install, where it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = str(error.name or name).split(".")[0]
        raise ImportError(f"ONNX export needs {package}: pip install 'cifar-hapi[onnx]'") from error
    except ValueError as error:  # of paddle2onnx, where Paddle is too old for it
        raise RecipeError(f"format = 'onnx': {str(error).partition('. ')[0]}; take --format paddle") from error
