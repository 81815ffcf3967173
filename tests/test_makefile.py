"""The Makefile: what its variables become, and that only a whole install counts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


def make(*arguments, folder=ROOT, **environment):
    """Run make with none of this process's make variables; the finished process."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "DEVICE"))}
    command = ["make", "-C", str(folder), "--no-print-directory", *arguments]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train"], "bin/cifar-hapi train --device cpu"),
        (
            ["train", "RECIPE=resnet20", "EPOCHS=3", "DATA=cifar10", "RUN=runs/x", "ARGS=--seed 1"],
            "bin/cifar-hapi train resnet20 --epochs 3 --data cifar10 --run-dir runs/x --device cpu --seed 1",
        ),
        (["resume"], "bin/cifar-hapi resume --device cpu"),
        (["resume", "RUN=runs/x", "EPOCHS=9"], "bin/cifar-hapi resume runs/x --epochs 9 --device cpu"),
        (["evaluate"], "bin/cifar-hapi evaluate --device cpu"),
        (["evaluate", "RUN=runs/x", "ARGS=--json"], "bin/cifar-hapi evaluate runs/x --device cpu --json"),
        (["report"], "bin/cifar-hapi report"),
        (["report", "RUN=runs/x", "ARGS=--out x.html"], "bin/cifar-hapi report runs/x --out x.html"),
        (["serve"], "bin/cifar-hapi serve --device cpu"),
        (["serve", "RUN=runs/x", "ARGS=--port 80"], "bin/cifar-hapi serve runs/x --device cpu --port 80"),
        (["serve"], "pip install --quiet --disable-pip-version-check -e '.[cpu,serve]'"),
        (["bench-serving", "ARGS=--json"], "bin/python -m benchmarks.serving --json"),
        (["audit"], ".ci/audit "),
        (["dist"], ".ci/dist "),
        (["bench-scaling", "ARGS=--json"], "python -m benchmarks.scaling --json"),
        (["bench-store", "ARGS=--json"], "python -m benchmarks.store --json"),
        (["dist"], "pip install --quiet --disable-pip-version-check -e '.[cpu,dev,release]'"),
        (["test", "ARGS=-k loader"], "bin/python -m pytest -n 2 --dist loadfile -k loader"),
        (["bench"], "python -m benchmarks.training &&"),
        (["bench", "BENCH=loop training", "ARGS=--json"], "python -m benchmarks.loop --json && "),
        (["bench-inference", "ARGS=--rounds 1"], "bin/python -m benchmarks.inference --rounds 1 &&"),
        (["train"], "pip install --quiet --disable-pip-version-check -e '.[cpu,report]'"),
        (["test"], "pip install --quiet --disable-pip-version-check -e '.[cpu,dev]'"),
        (["docs"], "pip install --quiet --disable-pip-version-check -e '.[cpu,dev,docs]'"),
        (["train", "DEVICE=gpu"], "pip install --quiet --disable-pip-version-check -e '.[gpu,report]'"),
        (["train", "DEVICE=gpu"], "pip uninstall --quiet --yes paddlepaddle "),
        (["train"], "pip uninstall --quiet --yes paddlepaddle-gpu "),
    ],
)
def test_variables_pass_through(arguments, expected, tmp_path):
    device = [] if any(word.startswith("DEVICE") for word in arguments) else ["DEVICE=cpu"]
    commands = make("-n", f"VENV={tmp_path}/venv", *arguments, *device).stdout
    assert expected in re.sub(r"[ \t\\\n]+", " ", commands)


@pytest.mark.parametrize(("status", "device"), [(0, "gpu"), (9, "cpu")])
def test_a_gpu_is_used_where_nvidia_smi_works(tmp_path, status, device):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nexit {status}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    commands = make("-n", "train", f"VENV={tmp_path}/venv", PATH=f"{tmp_path}:{os.environ['PATH']}").stdout
    assert f"--device {device}" in commands and f".[{device},report]" in commands


PYTHON = """#!/bin/sh
# Stands in for Python: makes an environment whose pip fails as long as the file `broken` is there.
case "$*" in
  *"-m venv"*)
    mkdir -p $3/bin
    cp $0 $3/bin/python
    printf '#!/bin/sh\\necho trained "$@"\\n' > $3/bin/cifar-hapi
    chmod +x $3/bin/cifar-hapi ;;
  *"pip install"*)
    echo "$@" >> installs
    test ! -e broken ;;
  *"-m benchmarks."*)
    echo "$@" ;;
esac
"""


INSTALLED = ("setup.cfg", "setup.py", "pyproject.toml", "cifar_hapi/engine/winograd.c")


@pytest.fixture
def copy(tmp_path):
    """The Makefile in a folder of its own, with a Python that only pretends."""
    for name in ("Makefile", *INSTALLED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def train(copy, *arguments):
    return make("train", f"PYTHON={copy}/python", "DEVICE=cpu", *arguments, folder=copy)


def installs(copy):
    file = copy / "installs"
    return file.read_text().count("pip install") if file.exists() else 0


def test_an_install_happens_once_and_a_failed_one_does_not_count(copy):
    (copy / "broken").touch()
    assert train(copy).returncode != 0 and installs(copy) == 1
    (copy / "broken").unlink()
    assert train(copy).stdout.splitlines()[-1].startswith("trained train") and installs(copy) == 2
    assert train(copy).returncode == 0 and installs(copy) == 2


@pytest.mark.parametrize("changed", INSTALLED)
def test_what_is_installed_anew_when_it_changes(copy, changed):
    train(copy)
    stamp = copy / ".venv" / "installed-cpu"
    later = stamp.stat().st_mtime + 10
    os.utime(copy / changed, (later, later))
    train(copy)
    assert installs(copy) == 2


def test_a_device_that_is_none_is_an_error(copy):
    found = make("train", f"PYTHON={copy}/python", "DEVICE=tpu", folder=copy)
    assert found.returncode == 2 and "DEVICE=tpu: must be cpu or gpu" in found.stderr and installs(copy) == 0


def test_benchmarks_run_without_pytorch_where_it_cannot_be_installed(copy):
    arguments = ("bench", "BENCH=loop", f"PYTHON={copy}/python", "DEVICE=cpu")
    assert "cannot" not in make(*arguments, folder=copy).stderr and installs(copy) == 2  # this project, and PyTorch
    shutil.rmtree(copy / ".venv-torch")
    (copy / "broken").touch()
    found = make(*arguments, folder=copy)
    assert found.returncode == 0 and "-m benchmarks.loop" in found.stdout
    assert "torch==2.13.0+cpu cannot be installed" in found.stderr


def test_help_lists_every_target():
    text = make("help").stdout
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    assert [target for target in targets if f"make {target}" not in text] == []
