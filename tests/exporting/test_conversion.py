"""What paddle2onnx does to its process becomes one line, and nothing of it is kept."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import paddle
import pytest
from paddle import nn

from cifar_hapi.errors import CifarHapiError
from cifar_hapi.exporting import conversion, paddle_format

pytestmark = pytest.mark.skipif(paddle.__version__.startswith("2."), reason="paddle2onnx 2 needs Paddle 3")


class Applied(nn.Layer):
    """A linear layer and a function after it."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(self.linear(x))


def program_of(folder, function):
    spec = paddle.static.InputSpec([None, 4], "float32", "images")
    return paddle_format.write(Applied(function), spec, folder)


def erfinv_of_digamma(x):
    return paddle.erfinv(paddle.digamma(x - 1))


def softplus_of_its_own(x):
    return nn.functional.softplus(x, beta=2.0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (erfinv_of_digamma, "the operators digamma, erfinv"),
        (softplus_of_its_own, r"the operator softplus: Only support softplus with beta == 1\.0 and threshold == 20\.0"),
    ],
    ids=["unknown", "unknown option"],
)
def test_an_abort_is_an_error_that_names_the_operator(tmp_path, capfd, function, message):
    program = program_of(tmp_path, function)
    before = {file.name for file in tmp_path.iterdir()}
    capfd.readouterr()
    with pytest.raises(CifarHapiError, match=f"^not exported: paddle2onnx cannot convert {message}; take --format"):
        conversion.converted(program)
    assert {file.name for file in tmp_path.iterdir()} == before and capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('x [ERROR]\\tFailed to convert PaddlePaddle model: none.'); 1 / 0", "PaddlePaddle model: none"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the network: it ended the process with SIGKILL"),
        ("raise MemoryError('too large')", "the network: MemoryError: too large"),
        ("pass", "the network: exit code 0"),
    ],
)
def test_whatever_ends_the_child_is_told(tmp_path, monkeypatch, code, message):
    (tmp_path / "child_that_fails.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(conversion, "_CHILD", "child_that_fails")
    with pytest.raises(CifarHapiError, match=f"paddle2onnx cannot convert {message}; take --format paddle"):
        conversion.converted(tmp_path / "model.json")


def test_a_conversion_that_does_not_end_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "child_without_end.py").write_text("import threading; threading.Event().wait()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(conversion, "_CHILD", "child_without_end")
    monkeypatch.setattr(conversion, "TIME_LIMIT", 0.5)
    with pytest.raises(CifarHapiError, match=r"has not converted the network within 0\.5 s; take --format paddle"):
        conversion.converted(tmp_path / "model.json")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("add", True),
        ("relu_", True),
        ("flatten", True),
        ("topk", True),
        ("matmul", True),
        ("mean", True),
        ("argmax", True),
        ("divide", True),
        ("data", True),
        ("erfinv", False),
    ],
)
def test_operators_are_known_by_what_paddle_2_called_them(monkeypatch, name, known):
    operators = [SimpleNamespace(name=lambda: f"pd_op.{name}"), SimpleNamespace(name=lambda: "builtin.parameter")]
    program = SimpleNamespace(global_block=lambda: SimpleNamespace(ops=operators))
    monkeypatch.setattr(paddle.jit, "load", lambda path: SimpleNamespace(program=lambda: program))
    assert conversion._unknown_operators(conversion.Path("model.json")) == ([] if known else [name])


def test_the_child_finds_what_this_process_finds(tmp_path, monkeypatch):
    (tmp_path / "child_that_tells.py").write_text(
        "import sys, pathlib, beside\npathlib.Path(sys.argv[4]).write_bytes(' '.join(sys.argv[3:4]).encode())"
    )
    (tmp_path / "beside.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr(conversion, "_CHILD", "child_that_tells")
    (tmp_path / "program").mkdir()
    assert conversion.converted(tmp_path / "program" / "model.json") == str(conversion.OPSET).encode()
