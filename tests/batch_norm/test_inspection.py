"""Batch norm of a run on disk: what is known of it, and the command that shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from callbacks.bn_layout import SUMMARY
from callbacks.paddle_model import norm_layers, weights
from cifar_hapi import Run, diagnose, inspect_batch_norm, load
from cifar_hapi.batch_norm.rules import RULES
from cifar_hapi.cli import run_command
from cifar_hapi.errors import DataError, RecipeError


@pytest.fixture(scope="module")
def trained(recorded_run):
    """The run on disk alone."""
    return recorded_run.path


@pytest.fixture
def unrecorded(trained, tmp_path):
    """The same run without what was recorded."""
    shutil.copytree(trained, tmp_path / "runs" / "run", ignore=shutil.ignore_patterns("bn", ".lock"))
    return tmp_path / "runs" / "run"


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("cifar_hapi.cli.prepare_process", lambda: None)  # Paddle is loaded already
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        code = run_command([str(argument) for argument in ("bn", *arguments)])
        return code, *capsys.readouterr()

    return run


def test_an_inspection_has_the_layers_the_records_and_the_diagnosis(trained):
    found = inspect_batch_norm(trained, images=20)
    model = load(trained)
    assert [layer.name for layer in found.layers] == list(norm_layers(model.network))
    tensors = weights(model)
    for layer in found.layers:
        np.testing.assert_array_equal(layer.tensors["running_mean"], tensors[f"{layer.name}._mean"])
        np.testing.assert_array_equal(layer.tensors["scale"], tensors[f"{layer.name}.weight"])
        assert layer.away is not None and layer.away.typical_mean >= 0
    assert found.step == 10 and found.images == 20 and found.records.epochs.tolist() == [0, 1, 2]
    assert found.diagnosis == diagnose(trained, images=20)


def test_the_distance_is_that_of_the_running_statistics_from_the_true_ones(trained):
    layer = inspect_batch_norm(trained, images=20).layers[0]
    true, held = layer.true, layer.tensors
    root = np.sqrt(true.variance + 1e-5)
    np.testing.assert_allclose(layer.away.mean, (held["running_mean"] - true.mean) / root, rtol=1e-4)


def test_json_has_summaries_of_all_tensors(trained):
    found = inspect_batch_norm(trained, images=20)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["step"] == 10 and told["weights"] == "latest" and told["run"] == str(trained)
    assert told["recorded"]["steps"] == [0, 5, 10] and told["recorded"]["channels"] == "all"
    assert told["diagnosis"]["images"] == 20
    for layer, held in zip(told["layers"], found.layers, strict=True):
        assert list(layer["running_variance"]) == list(SUMMARY) and layer["channels"] == held.channels
        assert layer["shift"]["max"] == pytest.approx(float(held.tensors["shift"].max()))
        assert layer["distance"]["mean"] == pytest.approx(held.away.typical_mean)


def test_a_number_that_is_none_is_null(trained):
    found = inspect_batch_norm(trained, diagnosis=False)
    found.layers[0].tensors["scale"][:] = np.nan
    assert set(found.to_dict()["layers"][0]["scale"].values()) == {None}
    assert found.to_dict()["layers"][0]["distance"] is None and found.to_dict()["diagnosis"] is None


def test_without_images_there_is_all_but_a_diagnosis(unrecorded, tmp_path):
    Run(unrecorded).update(recipe={**Run(unrecorded).manifest["recipe"], "data": {"source": str(tmp_path / "gone")}})
    with pytest.raises(DataError, match="without images there is no diagnosis: --no-diagnosis"):
        inspect_batch_norm(unrecorded, data_dir=tmp_path)
    found = inspect_batch_norm(unrecorded, diagnosis=False)
    assert found.diagnosis is None and found.records is None and found.images == 0 and found.layers[0].away is None


def test_a_network_without_batch_norm_is_named(trained, monkeypatch):
    monkeypatch.setattr("cifar_hapi.batch_norm.arguments.norm_layers", lambda network: {})
    with pytest.raises(RecipeError, match=r"run .*: the network has no batch norm"):
        inspect_batch_norm(trained, diagnosis=False)


def test_a_model_is_no_run(trained):
    with pytest.raises(TypeError, match=r"a Model is no Run or path of one; of a model, diagnose\(model, data\)"):
        inspect_batch_norm(load(trained))


def test_the_command_shows_table_findings_and_page(command, trained, small_cifar):
    code, out, err = command(trained, "--data-dir", small_cifar, "--html", "bn.html")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"run {trained}: 19 batch norms, latest weights, step 10")
    assert any(line.startswith("stem.norm ") for line in lines)
    assert [line for line in lines if line != line.rstrip()] == []
    assert (
        any(line.endswith(f"batch norms, 30 images, {len(RULES) - 2} of {len(RULES)} rules") for line in lines)
        and lines[-1] == "page: bn.html"
    )


def test_the_newest_run_is_shown_where_none_is_named_and_how_to_record(command, unrecorded):
    code, out, err = command("--no-diagnosis", "--weights", "best")
    assert (code, err) == (0, "")
    assert out.startswith("run runs/run: 19 batch norms, best weights") and "--set bn_stats.every_epochs=1" in out
    assert "rules" not in out


def test_the_page_is_by_default_in_the_run(command, unrecorded):
    code, out, _ = command("runs/run", "--no-diagnosis", "--quiet", "--html")
    assert (code, out.splitlines()) == (0, ["19 batch norms, not diagnosed", "page: runs/run/bn/page.html"])
    assert (unrecorded / "bn" / "page.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_json_is_alone_on_the_output(command, unrecorded):
    code, out, err = command("runs/run", "--no-diagnosis", "--json", "--html")
    assert (code, err) == (0, "page: runs/run/bn/page.html\n") and len(json.loads(out)["layers"]) == 19


def test_the_page_is_thought_of_before_the_images_are(command, unrecorded, monkeypatch):
    monkeypatch.setattr("cifar_hapi.batch_norm.inspection.look", None)
    for arguments in (["runs/run", "--html", "runs"], ["--html", "runs/run"], ["--html", "runs"]):
        assert command(*arguments)[0] == 2


def test_a_run_that_is_not_there_is_told_before_paddle_loads(command, monkeypatch):
    monkeypatch.setattr("cifar_hapi.cli.prepare_process", None)
    assert command("nowhere")[0] == command()[0] == 4


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"status": "failed", "error": "NonFiniteLoss: nan"}, "it failed before any were saved (NonFiniteLoss: nan)"),
        ({"status": "interrupted"}, "none were saved before it was interrupted"),
    ],
)
def test_a_newest_run_without_weights_says_why(command, unrecorded, status, told):
    shutil.rmtree(unrecorded / "checkpoints")
    Run(unrecorded).update(**status)
    code, out, err = command()
    assert (code, out) == (4, "")
    assert err == f"error: run runs/run: has no latest weights: {told}; name another run\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["runs/run", "--weights", "worst"], 2, "'worst' is not one of"),
        (
            ["--html", "runs/run"],
            2,
            "runs/run is a run, not a file for the page: name it first: cifar-hapi bn",
        ),
        (["--html", "runs"], 2, "is a folder; name a file for the page"),
        (["runs/run", "--data-dir", "runs"], 3, "without images there is no diagnosis: --no-diagnosis"),
        (["nowhere"], 4, "nowhere is no run"),
    ],
)
def test_what_cannot_be_is_one_line_and_an_exit_code(command, unrecorded, monkeypatch, arguments, code, message):
    if "--data-dir" in arguments:
        Run(unrecorded).update(data={**Run(unrecorded).manifest["data"], "name": "runs"})
    found, _, err = command(*arguments)
    assert found == code and message in err and err.strip().count("\n") <= 3
    if code > 2:
        assert err.count("\n") == 1


def test_damaged_records_are_warned_of_and_the_layers_shown_without_their_course(command, unrecorded):
    (unrecorded / "bn").mkdir()
    (unrecorded / "bn" / "stats.jsonl").write_text("nonsense\n")
    warned = r"stats.jsonl, line 1: no header .*; remove runs/run/bn/stats.jsonl, or its damaged end"
    with pytest.warns(UserWarning, match=warned):
        code, out, err = command("runs/run", "--no-diagnosis", "--html", "bn.html")
    assert (code, err) == (0, "")
    assert "recorded in training, and not readable: run runs/run: runs/run/bn/stats.jsonl, line 1" in out
    assert "stem.norm " in out and "in time" not in out and "to record" not in out
    assert "and not readable: run runs/run" in Path("bn.html").read_text("utf-8")
    with pytest.warns(UserWarning, match=warned):
        told = json.loads(command("runs/run", "--no-diagnosis", "--json")[1])
    assert told["recorded"] is None and "line 1: no header" in told["damage"]


def test_records_without_a_record_are_none(unrecorded, trained):
    (unrecorded / "bn").mkdir()
    header = (trained / "bn" / "stats.jsonl").read_bytes().splitlines(keepends=True)[0]
    (unrecorded / "bn" / "stats.jsonl").write_bytes(header)
    assert inspect_batch_norm(unrecorded, diagnosis=False).records is None
