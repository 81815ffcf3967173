"""The notebooks in both languages and their pages; `make tutorial` runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cifar_hapi.networks import network_names

FOLDER = Path(__file__).parents[1] / "docs" / "tutorial"
SCRIPTS = sorted(FOLDER.glob("[0-9]_*.py"))


def code_of(script):
    """The code cells of a notebook in percent form."""
    cells = re.split(r"^# %%(.*)\n", script.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return [text.strip() for kind, text in zip(cells[::2], cells[1::2], strict=True) if "markdown" not in kind]


def code_on(page):
    return [block.strip() for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)]


def test_there_are_five():
    assert [script.name[0] for script in SCRIPTS] == list("12345")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_translation_has_the_same_code(script):
    assert code_of(FOLDER / "zh-CN" / script.name) == code_of(script)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
@pytest.mark.parametrize("language", [".", "zh-CN"])
def test_the_page_is_of_the_notebook_as_it_is(script, language):
    folder = FOLDER / language
    assert code_on(folder / f"{script.stem}.md") == code_of(folder / script.name)


@pytest.mark.parametrize("language", [".", "zh-CN"])
def test_the_page_that_lists_the_networks_has_those_that_there_are(language):
    page = (FOLDER / language / "3_residual_network.md").read_text(encoding="utf-8")
    assert ", ".join(network_names()) in page
