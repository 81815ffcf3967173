"""Paddle's inference format to ONNX by paddle2onnx, which ends its process at an operator that it does not know."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import paddle

from cifar_hapi.errors import CifarHapiError

OPSET = 17  # of 2022: onnxruntime 1.12 and newer, OpenCV and TensorRT 8.5 know it
TIME_LIMIT = 600.0  # seconds: against a conversion that hangs, not a slow one
_ARITHMETIC = {  # what Paddle 3 calls them: what the operators of Paddle 2 were called, after "elementwise_"
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "maximum": "max",
    "minimum": "min",
    "floordivide": "floordiv",
    "remainder": "mod",
}
_CHILD = "cifar_hapi.exporting.conversion_child"


def converted(program: Path) -> bytes:
    """The bytes of the ONNX model that paddle2onnx makes of `program`, whose parameters lie beside it.

    Nothing is printed. Raises CifarHapiError, naming the operator where that can be told, for what it cannot convert
    and for what takes longer than `TIME_LIMIT`.
    """
    model = program.with_name("converted.onnx")
    parameters = program.with_name("model.pdiparams")
    command = [sys.executable, "-m", _CHILD, str(program), str(parameters), str(OPSET), str(model)]
    try:
        done = subprocess.run(
            command,
            cwd=program.parent,  # where a core file would be left
            env={**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(place).resolve()) for place in sys.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CifarHapiError(
            f"not exported: paddle2onnx has not converted the network within {TIME_LIMIT:g} s; take --format paddle"
        ) from None
    if done.returncode or not model.exists():
        raise CifarHapiError(
            f"not exported: paddle2onnx cannot convert {_why(done, program)}; take --format paddle, which knows all"
        )
    return model.read_bytes()


def _why(done: subprocess.CompletedProcess[str], program: Path) -> str:
    """What it cannot convert, and why, from the surest to the vaguest source."""
    if told := re.search(r"Failed to convert (.*?)\.?$", done.stdout, re.MULTILINE):
        return told[1]
    if told := re.search(r"\[OP: (?:pd_op\.)?(\w+)\] *(.+)", done.stdout):
        return f"the operator {told[1]}: {told[2].strip().rstrip('.')}"
    if "unsupported operators" in done.stdout and (unknown := _unknown_operators(program)):
        return f"the operator{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}"
    return f"the network: {_last_words(done)}"


def _unknown_operators(program: Path) -> list[str]:
    """Of the operators of `program` those that are not on paddle2onnx's list."""
    native = importlib.import_module("paddle2onnx.paddle2onnx_cpp2py_export")
    known = {name.replace("_", "") for name in (*native.get_all_supported_operators_pir(), "data", "fetch")}
    loaded = paddle.jit.load(str(program.with_suffix(""))).program()  # its operators do not keep it
    names = {name for each in loaded.global_block().ops if (name := each.name()).startswith("pd_op.")}
    plain = {name.removeprefix("pd_op.") for name in names}
    return sorted(name for name in plain if not _is_listed(name, known))


def _is_listed(name: str, known: set[str]) -> bool:
    """Whether paddle2onnx's list, which has some names of Paddle 2, has an operator; all without underscores."""
    plain = name.replace("_", "")
    others = {f"elementwise{_ARITHMETIC.get(plain, plain)}", f"reduce{plain}"}
    return bool(known & others) or any(each.startswith(plain) for each in known)  # "flatten_contiguous_range"


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"it ended the process with {signal.Signals(-done.returncode).name}"
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
