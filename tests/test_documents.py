"""What the documents show runs: the Python of both READMEs and of pages of docs/, the examples, and the links."""

from __future__ import annotations

import doctest
import re
import runpy
from functools import partial
from pathlib import Path

import pytest

import callbacks
import cifar_hapi
from cifar_hapi import printable, recipe
from cifar_hapi.data.synthetic import write_synthetic
from cifar_hapi.networks import registry
from cifar_hapi.pretrained import names
from cifar_hapi.recipe import Recipe, known_keys

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")  # the Chinese one shows the same code, see below
DOCUMENTS = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md")])
PAGES = {
    page: (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    for page in ("callbacks", "batch-norm", "batch-norm-formulas", "getting-started", "contributing")
}
BLOCKS = [
    pytest.param(block, id=f"{name}, block {number}")
    for name, text in (("README", README), *PAGES.items())
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
]


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """An empty working folder, where the generated set is a small one: what is tested is that the code runs."""
    monkeypatch.chdir(tmp_path)
    small = partial(write_synthetic, train=300, test=50)
    monkeypatch.setattr("cifar_hapi.data.sources.write_synthetic", lambda folder: small(tmp_path / "synthetic"))
    monkeypatch.setattr(registry, "NETWORKS", dict(registry.NETWORKS))  # a page registers a network


@pytest.mark.parametrize("block", BLOCKS)
def test_python_in_the_documents_runs(block, empty_folder):
    exec(compile(block, "README", "exec", dont_inherit=True), {"__name__": "readme"})


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def test_the_test_that_is_shown_passes(tmp_path):
    (block,) = (block for block in blocks("contributing", "python") if "def test_" in block)
    file = tmp_path / "test_shown.py"
    file.write_text(block, "utf-8")
    assert pytest.main(["-q", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", str(file)]) == 0


def test_the_recipe_that_is_shown_can_be_trained(tmp_path):
    (block,) = blocks("contributing", "toml")
    (tmp_path / "mine.toml").write_text(block, "utf-8")
    shown = Recipe.load(tmp_path / "mine.toml")
    assert (shown.name, shown.epochs, shown.network.name) == ("mine", 5, "resnet20")


def test_what_is_to_be_imitated_is_short():
    lengths = [block.count("\n") for language in ("python", "toml") for block in blocks("contributing", language)]
    assert len(lengths) == 4 and max(lengths) < 20, lengths


@pytest.mark.parametrize("package", [cifar_hapi, callbacks], ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_api(package):
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    shown = set(re.findall(rf"^::: {package.__name__}\.(\w+)$", text, re.MULTILINE))
    assert shown == {name for name in package.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*.py")), ids=lambda path: path.stem)
def test_examples_run(example, empty_folder):
    runpy.run_path(str(example), run_name="__main__")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text("utf-8")) + re.findall(
        r'src="([^"]+)"', document.read_text("utf-8")
    )
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_every_key_of_a_recipe_is_documented():
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    sections = {key.split(".")[0] for key in known_keys() if "." in key}
    assert [key for key in known_keys() if key not in sections and f"`{key}`" not in text] == []


def test_what_the_page_of_security_names_is_there():
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    rows = [line.split("|")[3:5] for line in text.splitlines() if line.count("|") == 5 and "`" in line]
    code, tests = (re.findall(r"`([^`]+\.py)`", " ".join(column)) for column in zip(*rows, strict=True))
    assert len(rows) > 12 and len(code) > 15 and len(tests) > 15
    assert [name for name in code if not (ROOT / name).is_file()] == []
    assert [name for name in tests if not (ROOT / "tests" / name).is_file()] == []


def test_examples_in_docstrings_are_true():
    tried = [doctest.testmod(module) for module in (recipe, names, printable)]
    assert all(result.failed == 0 and result.attempted > 0 for result in tried)


def test_both_readmes_show_the_same_code():
    english, chinese = (
        re.findall(r"```(?:python|sh|text|toml)\n.*?```", (ROOT / name).read_text("utf-8"), re.DOTALL)
        for name in ("README.md", "README.zh-CN.md")
    )
    assert english == chinese
