""".ci/audit: what fails it, and that it claims nothing where it could not look."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCANNER = shutil.which("detect-secrets-hook", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
VULNERABLE = '{"dependencies": [{"name": "requests", "version": "2.19.1", "vulns": [{"id": "PYSEC-2018-28"}]}]}'
UNKNOWN = '{"dependencies": [{"name": "requests", "skip_reason": "not found on PyPI"}], "fixes": []}'


@pytest.fixture
def audit(tmp_path):
    """Runs .ci/audit in a repository of three files, by programs that answer as they are told."""
    tree, programs = tmp_path / "tree", tmp_path / "bin"
    for folder in (tree / ".ci", programs):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "audit", tree / ".ci")
    shutil.copy(ROOT / ".secrets.baseline", tree)
    (tree / "code.py").write_text("x = 1\n")
    subprocess.run("git init -q . && git add -A", shell=True, cwd=tree, check=True)

    def run(known=VULNERABLE, installed=0, fit=0, scanner="#!/bin/sh\n"):
        asked = f"case \"$*\" in *-r*) echo '{known}' ;; *) exit {installed} ;; esac"
        for name, text in (("python", f"exit {fit}"), ("pip-audit", asked), ("detect-secrets-hook", scanner)):
            (programs / name).write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        command = [str(tree / ".ci" / "audit"), str(programs)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    run.tree = tree
    return run


@pytest.mark.parametrize(
    ("answers", "code"),
    [({}, 0), ({"installed": 1}, 1), ({"fit": 1}, 1), ({"scanner": "#!/bin/sh\nexit 1\n"}, 123)],
    ids=["all is well", "a known vulnerability", "packages that do not fit", "a secret"],
)
def test_each_finding_fails_it(audit, answers, code):
    assert audit(**answers).returncode == code


@pytest.mark.parametrize("known", [UNKNOWN, ""], ids=["not found", "no answer"])
def test_without_data_it_says_that_it_has_not_looked(audit, known):
    found = audit(known=known, installed=1)
    assert found.returncode == 0 and "NOT looked for known vulnerabilities" in found.stdout.splitlines()[-1]
    assert "No known vulnerabilities" not in found.stdout + found.stderr


@pytest.mark.skipif(SCANNER is None, reason="no detect-secrets here (extra `release`)")
def test_a_planted_key_is_found(audit):
    scanner = f'#!/bin/sh\nexec {SCANNER} "$@"\n'
    assert audit(scanner=scanner).returncode == 0
    parts = ("AKIA", "4EXAMPLEQ7RTWB2Z")  # apart here, so that this file is none
    (audit.tree / "code.py").write_text(f'key = "{"".join(parts)}"\n')
    found = audit(scanner=scanner)
    assert found.returncode != 0 and "AWS Access Key" in found.stdout and "code.py" in found.stdout
