"""What the tests of export share."""

from __future__ import annotations

import pytest

from cifar_hapi.exporting import conversion_child
from cifar_hapi.exporting.conversion import OPSET


@pytest.fixture
def converted_here(monkeypatch):
    """Let paddle2onnx convert in this process, which needs no second Paddle: some seconds less a test."""

    def converted(program):
        model = program.with_name("converted.onnx")
        conversion_child.main(str(program), str(program.with_name("model.pdiparams")), str(OPSET), str(model))
        return model.read_bytes()

    monkeypatch.setattr("cifar_hapi.exporting.onnx_format.converted", converted)
