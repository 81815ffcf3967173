"""An ONNX model in whole numbers of 8 bits, by onnxruntime's own tool."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cifar_hapi.exporting.network import INPUT
from cifar_hapi.exporting.onnx_format import library

# Others stay in float32: what normalises pixels, and the scale of airbench's logits. Between two of these that
# onnxruntime runs in whole numbers, it goes over to floats and back.
_OPERATORS = ("Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool")


def quantise(model: Path, batches: Iterable[np.ndarray]) -> Any:
    """The onnx.ModelProto that onnxruntime makes of a float32 `model` whose batch norm is folded.

    Static, in QDQ form: activations uint8, with the range that each has over `batches`, which are what the model takes;
    weights int8 with a scale for each output channel. Weights take 7 of their 8 bits: processors without VNNI add two
    products in 16 bits, and these saturate. With all 8 bits an airbench of 84.8 % fell to 54.1 % on such a one, with 7
    it did not fall (docs/export.md).
    """
    tool, preparing = library("onnxruntime.quantization"), library("onnxruntime.quantization.shape_inference")
    with tempfile.TemporaryDirectory() as beside:
        prepared, result = Path(beside) / "prepared.onnx", Path(beside) / "int8.onnx"
        # Makes biases a part of convolutions, and constants what the tool takes for weights.
        preparing.quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        tool.quantize_static(
            str(prepared),
            str(result),
            _Reader(batches),
            quant_format=tool.QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            per_channel=True,
            reduce_range=True,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            calibrate_method=tool.CalibrationMethod.MinMax,
        )
        found = library("onnx").load(str(result))
    _forget_unused_domains(found)
    return found


class _Reader:
    """What onnxruntime calls a CalibrationDataReader: a batch at a time, then None."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _forget_unused_domains(model: Any) -> None:
    """Of operators; onnxruntime names all that it knows, and other programs refuse what they don't."""
    used = {node.domain for node in model.graph.node}
    for entry in list(model.opset_import):
        if entry.domain not in used:
            model.opset_import.remove(entry)
