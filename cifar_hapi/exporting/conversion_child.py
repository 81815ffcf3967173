"""A process that converts Paddle's inference format to ONNX; a child of `cifar_hapi.exporting.conversion`.

python -m cifar_hapi.exporting.conversion_child PROGRAM PARAMETERS OPSET MODEL
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def main(program: str, parameters: str, opset: str, model: str) -> None:
    """Write to `model` what paddle2onnx makes of `program`.

    Asked for bytes instead of a file, paddle2onnx leaves out its own optimisers: the default one, Polygraphy, is told
    to install packages at run time. onnxruntime and its like fold constants as they load a model.
    """
    import paddle2onnx  # type: ignore[import-untyped, unused-ignore]  # of the extra `onnx`

    if sys.platform == "linux":
        _print_at_once()
    found = paddle2onnx.export(program, parameters, save_file=None, opset_version=int(opset), auto_upgrade_opset=False)
    Path(model).write_bytes(found)


def _print_at_once() -> None:
    """Let C's standard output keep nothing back: an abort would lose what paddle2onnx has said of its reasons."""
    library = ctypes.CDLL(None)
    unbuffered = 2  # _IONBF of stdio.h
    library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, unbuffered, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
