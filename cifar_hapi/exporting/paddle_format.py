"""Paddle's inference format: a program and its parameters, written by paddle.jit.save, run by paddle.inference."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import paddle
from paddle import inference, nn

from cifar_hapi.exporting.network import Answer

_PROGRAMS = ("model.json", "model.pdmodel")  # of Paddle 3 and of Paddle 2.6


def write(network: nn.Layer, spec: paddle.static.InputSpec, folder: Path) -> Path:
    """Write `network` into `folder`; the file of its program, beside which are its parameters, model.pdiparams."""
    with warnings.catch_warnings():  # Paddle 3.3's zeros_like asks a tensor of a program where it is, and warns of that
        warnings.filterwarnings("ignore", message="Tensor do not have 'place' interface")
        paddle.jit.save(network, str(folder / "model"), input_spec=[spec])
    (folder / "model.pdiparams.info").unlink(missing_ok=True)  # of Paddle 2.6, for training on only
    program = next(folder / name for name in _PROGRAMS if (folder / name).exists())
    if program.suffix == ".pdmodel":
        _forget_callers(program)
    return program


def open_model(program: Path, threads: int | None = None) -> Answer:
    """The model as a program elsewhere would load it, on the CPU; Paddle takes one thread unless told."""
    config = inference.Config(str(program), str(program.with_name("model.pdiparams")))
    config.disable_glog_info()
    if threads is not None:
        config.set_cpu_math_library_num_threads(threads)
    predictor = inference.create_predictor(config)
    entry = predictor.get_input_handle(predictor.get_input_names()[0])
    result = predictor.get_output_handle(predictor.get_output_names()[0])

    def answer(images: np.ndarray) -> np.ndarray:
        entry.reshape(images.shape)
        entry.copy_from_cpu(images)
        predictor.run()
        return result.copy_to_cpu()

    return answer


def _forget_callers(program: Path) -> None:
    """Take out of a program of Paddle 2.6 where each operation was called: lines of code, with this machine's paths."""
    read = paddle.base.core.ProgramDesc(program.read_bytes())
    for block in map(read.block, range(read.num_blocks())):
        for place in range(block.op_size()):
            block.op(place).remove_attr("op_callstack")
    program.write_bytes(read.serialize_to_string())
