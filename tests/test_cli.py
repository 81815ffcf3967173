"""The command line: what it prints, and what it answers with."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from small_training import TINY, small_fit

from cifar_hapi import Run
from cifar_hapi.cli import run_command
from cifar_hapi.recipe import recipe_names, recipe_text

TINY_ARGUMENTS = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run a command line in this process, in an empty folder: exit code, output, errors."""
    monkeypatch.setattr("cifar_hapi.cli.prepare_process", lambda: None)  # Paddle is loaded already
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = run_command([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def run(small_cifar, tmp_path_factory):
    return small_fit(small_cifar, tmp_path_factory.mktemp("runs") / "run", epochs=1)


def test_train_then_evaluate_the_newest_run(command, small_cifar):
    options = ("--data", "cifar10", "--data-dir", small_cifar, "--epochs", 1, "--batch-size", 100, "--seed", 3)
    code, out, err = command("train", "quick", *options, *TINY_ARGUMENTS)
    assert (code, err) == (0, "")
    trained = Run.newest()
    assert f"cifar-hapi evaluate {trained.path}" in out
    headline = f"test top-1 {trained.evaluation['top1']:.2%}"
    assert headline in out and trained.recipe.seed == 3 and trained.recipe.batch_size == 100
    code, out, err = command("evaluate")
    assert (code, err) == (0, "") and headline in out and f"run: {trained.path}" in out
    assert command("evaluate", trained.path, "--quiet")[1].startswith(headline)


def test_evaluate_prints_json_alone(command, run):
    code, out, err = command("evaluate", run.path, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["top1"] == run.evaluation["top1"]


def test_evaluate_and_predict_take_another_engine_and_evaluate_tells_it(command, run, picture):
    assert "engine native, float32" in command("evaluate", run.path, "--engine", "native")[1].splitlines()
    found = json.loads(command("evaluate", run.path, "--engine", "native", "--json")[1])
    assert (found["engine"], found["precision"]) == ("native", "float32")
    assert command("predict", run.path, picture, "--engine", "native")[0] == 0
    code, out, err = command("predict", run.path, picture, "--engine", "onednnn")
    assert (code, out) == (2, "") and "did you mean onednn?" in err


def test_evaluate_shows_every_class(command, run):
    out = command("evaluate", run.path)[1]
    assert [name for name in run.data.class_names if name not in out] == []


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.full((32, 32, 3), 90, "uint8")).save(tmp_path / "grey.png")
    return tmp_path / "grey.png"


def test_predict_as_a_table_as_json_and_as_csv(command, run, picture):
    code, table, _ = command("predict", run.path, picture)
    assert code == 0
    (record,) = json.loads(command("predict", run.path, picture, "--json")[1])
    (row,) = csv.DictReader(io.StringIO(command("predict", run.path, picture, "--csv")[1]))
    assert record["class"] == row["class"] and record["class"] in table and "grey.png" in table
    assert {name: float(row[name]) for name in run.data.class_names} == pytest.approx(record["probabilities"])


def test_a_run_is_exported_and_the_comparison_told(command, run, tmp_path):
    code, out, _ = command("export", run.path, "--uint8-input", "--out", tmp_path / "out")
    assert code == 0 and "input    uint8 [N, 32, 32, 3]" in out and "same top-1 for 64 of 64" in out
    code, out, err = command("export", run.path, "--out", tmp_path / "out")
    assert (code, out) == (2, "") and "exists already" in err and len(err.splitlines()) == 1
    code, out, _ = command("export", run.path, "--fold-bn", "--out", tmp_path / "other", "--json")
    assert code == 0 and json.loads(out)["metadata"]["batch_norm_folded"] is True


def test_recipes_are_listed_and_printed(command):
    lines = command("recipes")[1].splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert command("recipes", "resnet20")[1] == recipe_text("resnet20")
    assert [recipe["name"] for recipe in json.loads(command("recipes", "--json")[1])] == recipe_names()


def test_data_is_verified(command, small_cifar):
    code, out, _ = command("data", "verify", "cifar10", "--data-dir", small_cifar)
    assert code == 0 and "600 images" in out and "120 images" in out
    parts = json.loads(command("data", "verify", "cifar10", "--data-dir", small_cifar, "--json")[1])["parts"]
    assert parts["train"]["sha256"] in out


NAMES = [
    "",
    "train",
    "resume",
    "evaluate",
    "predict",
    "bn",
    "export",
    "serve",
    "report",
    "compare",
    "recipes",
    "doctor",
    "data",
]


@pytest.mark.parametrize("name", [*NAMES, "data fetch", "data verify", "data show"])
def test_every_command_has_help_with_an_example(command, name):
    code, out, _ = command(*name.split(), "--help")
    assert code == 0
    assert "cifar-hapi " in out or name == "data"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "quik"], 2, "error: no recipe is called 'quik'; did you mean quick?"),
        (["train", "--set", "optimizer.lrr=1"], 2, "did you mean optimizer.lr?"),
        (["train", "--set", "epochs"], 2, "expected KEY=VALUE"),
        (["train", "--epochs", "x"], 2, "'x' is not a valid integer"),
        (["train", "--epochs", "0"], 2, "epochs = 0"),
        (["train", "--engine", "warp"], 2, "engine = 'warp'"),
        (["train", "--device", "gpu:9"], 2, "device 'gpu:9'"),
        (["train", "--data", "nowhere"], 3, "'nowhere' is neither"),
        (["train", "--data", "cifra10"], 3, "nor a folder of class folders; did you mean cifar10?"),
        (["trian"], 2, "No such command 'trian'"),
        (["evaluate"], 4, "no run in runs/: train one first"),
        (["evaluate", "nowhere"], 4, "nowhere is no run"),
        (["predict", "nowhere", "x.png"], 4, "nowhere is no run"),
        (["predict", "nowhere"], 2, "Missing argument"),
        (["report"], 4, "no run in runs/: train one first"),
        (["report", "nowhere"], 4, "nowhere is no run"),
        (["compare", "nowhere"], 4, "nowhere is no run"),
        (["compare"], 2, "Missing argument"),
        (["data", "show", "nowhere", "--out", "x.png"], 3, "'nowhere' is neither"),
        (["data", "show", "--augmented", "--recipe", "quik", "--out", "x.png"], 2, "did you mean quick?"),
        (["data", "show", "synthetic"], 2, "use --out FILE.png"),
        (["recipes", "none"], 2, "no recipe is called 'none'"),
        (["data", "fetch", "mnist"], 2, "'mnist' is not one of"),
        (["data", "verify", "nowhere"], 3, "'nowhere' is neither"),
    ],
)
def test_mistakes_are_one_line_on_standard_error_with_their_exit_code(command, arguments, code, message):
    found, out, err = command(*arguments)
    assert (found, out) == (code, "")
    assert message in err and "Traceback" not in err
    assert len(err.splitlines()) == 1 or err.startswith("Usage:")


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_predict_says_on_standard_error_that_a_run_learnt_generated_images(command, run, picture, tmp_path, form):
    assert command("predict", run.path, picture, *form)[2] == ""
    learnt = tmp_path / "learnt"
    shutil.copytree(run.path, learnt)
    manifest = json.loads((learnt / "run.json").read_text())
    manifest["data"]["name"] = "synthetic"
    (learnt / "run.json").write_text(json.dumps(manifest))
    code, out, err = command("predict", learnt, picture, *form)
    assert code == 0 and out == command("predict", run.path, picture, *form)[1]
    assert "was trained on generated images" in err and len(err.splitlines()) == 1
    assert command("predict", learnt, picture, *form, "--quiet")[2] == ""


def test_predict_names_the_file_it_cannot_read(command, run, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    code, out, err = command("predict", run.path, tmp_path / "broken.png")
    assert (code, out) == (3, "") and "broken.png" in err
    assert command("predict", run.path, "a.png", "--json", "--csv")[0] == 2


def test_debug_shows_the_traceback(command):
    code, _, err = command("evaluate", "nowhere", "--debug")
    assert code == 4 and "Traceback" in err and err.splitlines()[-1].startswith("error: nowhere is no run")


def test_a_diverging_training_is_exit_code_1(command, small_cifar):
    wild = ("--set", "optimizer.lr=3e38", "--set", "schedule.name=constant", "--epochs", 1, "--run-dir", "wild")
    code, _, err = command(
        "train", "--data", "cifar10", "--data-dir", small_cifar, *TINY_ARGUMENTS, *wild, "--batch-size", 100
    )
    assert code == 1 and err.startswith("error: the loss is ") and Run("wild").status == "failed"


def program(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "cifar_hapi", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_within_a_backward_pass_which_paddle_turns_into_an_error_of_its_own_ends_alike(
    command, monkeypatch, small_cifar
):
    def stopped(*arguments, **named):
        raise OSError("(External) Traceback ...: KeyboardInterrupt: [Hint: ...]")

    monkeypatch.setattr("paddle.Tensor.backward", stopped)
    place = ("--data", "cifar10", "--data-dir", small_cifar, "--run-dir", "run", "--quiet")
    assert command("train", "resnet20", *place, *TINY_ARGUMENTS) == (
        130,
        "",
        "\ninterrupted\n",
    )  # click ends the line of ^C
    assert Run("run").status == "interrupted"


@pytest.mark.parametrize("arguments", [["recipes", "resnet20"], ["evaluate", "RUN"], ["bn", "RUN", "--no-diagnosis"]])
def test_a_reader_that_leaves_is_not_complained_of(run, tmp_path, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    command = [str(run.path) if each == "RUN" else each for each in arguments]
    found = subprocess.run(
        [sys.executable, "-m", "cifar_hapi", *command], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (found.returncode, found.stderr) == (1, "")


def test_a_quiet_program_prints_its_result_alone(small_cifar, tmp_path):
    options = ("--data", "cifar10", "--data-dir", small_cifar, "--epochs", 1, "--run-dir", tmp_path / "run", "--quiet")
    out, err = program("train", *options, *TINY_ARGUMENTS).communicate(timeout=120)
    top1 = Run(tmp_path / "run").evaluation["top1"]
    assert err == "" and out.startswith(f"test top-1 {top1:.2%}: ") and len(out.splitlines()) == 2


def test_the_command_itself_needs_no_paddle():
    script = "import sys, cifar_hapi.cli; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
