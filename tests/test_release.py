"""What a release consists of: one version wherever it stands, and archives that hold what they should."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from setuptools.config.setupcfg import read_configuration

from cifar_hapi._version import __version__
from cifar_hapi.cli import cli

ROOT = Path(__file__).parents[1]
CONTENTS = ROOT / ".ci" / "dist_contents.py"
PACKAGE = ("cifar_hapi/__init__.py", "cifar_hapi/report/templates/page.html", "callbacks/py.typed")


def test_package_command_and_changelog_have_one_version():
    headings = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    version, day = headings[1]
    assert version == __version__ and re.fullmatch(r"\d{4}-\d{2}-\d{2}", day)
    assert read_configuration(ROOT / "setup.cfg")["metadata"]["version"] == version
    assert CliRunner().invoke(cli, ["--version"]).output.split() == ["cifar-hapi,", "version", version]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A repository of a few files, in which the test runs."""
    for name in PACKAGE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(tree, in_wheel, in_archive=(), rebuilt=None, rebuilt_text="", compiled=True):
    """Run dist_contents.py on a wheel, one made of the source archive, and a source archive of such files."""
    built = runpy.run_path(str(CONTENTS))["COMPILED"] if compiled else ()
    wheels = {"a.whl": in_wheel, "b.whl": in_wheel if rebuilt is None else rebuilt}
    for file, names in wheels.items():
        with zipfile.ZipFile(tree / file, "w") as wheel:
            for name in (*names, *built, "x.dist-info/METADATA"):
                wheel.writestr(name, rebuilt_text if file == "b.whl" else "")
    with tarfile.open(tree / "c.tar.gz", "w:gz") as archive:
        beside = runpy.run_path(str(CONTENTS))["BESIDE"]
        for name in (*PACKAGE, *beside, *in_archive):
            archive.addfile(tarfile.TarInfo(f"x-0.1/{name}"))
    command = [sys.executable, str(CONTENTS), *wheels, "c.tar.gz"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"in_wheel": PACKAGE}, ""),
        ({"in_wheel": (PACKAGE[0], PACKAGE[2])}, "a.whl: missing ['cifar_hapi/report/templates/page.html']"),
        ({"in_wheel": (*PACKAGE, "tests/toy.py")}, "a.whl: missing [], not expected ['tests/toy.py']"),
        ({"in_wheel": PACKAGE, "compiled": False}, "a.whl: missing ['cifar_hapi/engine/_winograd.abi3.so']"),
        ({"in_wheel": PACKAGE, "rebuilt": PACKAGE[:2]}, "b.whl: missing ['callbacks/py.typed']"),
        ({"in_wheel": PACKAGE, "rebuilt_text": "other"}, "b.whl: missing ['callbacks/py.typed (00000000)', "),
        ({"in_wheel": PACKAGE, "in_archive": ("tests/toy.py",)}, "c.tar.gz: missing [], not expected ['tests/toy.py']"),
    ],
    ids=[
        "whole",
        "a template forgotten",
        "tests in the wheel",
        "nothing was compiled",
        "the archive lacks a file",
        "the archive has another text",
        "tests in the archive",
    ],
)
def test_files_that_are_missing_or_too_many_are_named(tree, files, told):
    found = check(tree, **files)
    assert found.returncode == bool(told) and told in found.stderr
