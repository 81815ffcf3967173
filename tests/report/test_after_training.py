"""The page at the end of a training, and that a training is never lost for it."""

from __future__ import annotations

import sys

import pytest
from small_training import TINY, small_fit

from cifar_hapi import Run
from cifar_hapi.cli import run_command

TINY_ARGUMENTS = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def train(small_cifar, tmp_path, monkeypatch, capsys):
    """Train by the command line: exit code, output, errors."""
    monkeypatch.setattr("cifar_hapi.cli.prepare_process", lambda: None)  # Paddle is loaded already
    data = ("--data", "cifar10", "--data-dir", small_cifar, "--batch-size", 100)

    def run(*arguments):
        options = (*data, *TINY_ARGUMENTS, "--epochs", 1, "--run-dir", tmp_path / "run", *arguments)
        return run_command(["train", *map(str, options)]), *capsys.readouterr()

    return run


def test_a_training_tells_where_its_page_is(train, tmp_path):
    code, out, err = train()
    page = tmp_path / "run" / "report.html"
    assert (code, err) == (0, "") and f"report   {page}" in out.splitlines()
    assert "<img" in page.read_text("utf-8")


def test_no_report_writes_none(train, tmp_path, capsys):
    code, out, err = train("--no-report")
    assert (code, err) == (0, "") and not [line for line in out.splitlines() if line.startswith("report")]
    assert not (tmp_path / "run" / "report.html").exists()
    assert run_command(["resume", str(tmp_path / "run"), "--epochs", "2", "--no-report"]) == 0
    assert not (tmp_path / "run" / "report.html").exists()
    assert run_command(["resume", str(tmp_path / "run"), "--epochs", "3"]) == 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("library", ["plotly", "jinja2"])
def test_without_the_extra_one_line_tells_how_to_get_it(train, tmp_path, monkeypatch, library):
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    code, out, err = train()
    (line,) = [line for line in out.splitlines() if line.startswith("report")]
    assert (
        (code, err) == (0, "") and "pip install 'cifar-hapi[report]'" in line and f"report {tmp_path / 'run'}" in line
    )
    assert Run(tmp_path / "run").status == "finished" and not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("error", [ValueError("two\nlines"), OSError(28, "No space left"), MemoryError()])
def test_a_page_that_cannot_be_written_costs_a_warning(small_cifar, tmp_path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("cifar_hapi.report.page.render_page", fail)
    with pytest.warns(UserWarning, match=r"^run .*: its report is not written: [^\n]*$"):
        run = small_fit(small_cifar, tmp_path / "run", report=True, epochs=1)
    assert Run(run.path).status == "finished" and run.evaluation["images"] == 120 and not run.report_path.exists()
