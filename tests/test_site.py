"""What `make docs` does to docstrings and formulas, and what it refuses. It builds the pages strictly."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

BUILDING = Path(__file__).parents[1] / "docs" / "building"


@pytest.fixture
def building(monkeypatch):
    """A module of docs/building, where what it needs (the extra `docs`) is installed."""
    monkeypatch.syspath_prepend(str(BUILDING))

    def load(name, needs):
        pytest.importorskip(needs)
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("epochs: how many. seed: of what.", "- `epochs`: how many.\n- `seed`: of what."),
        ("Trains.\nepochs, seed: counts,\nboth.", "Trains.\n\n- `epochs`, `seed`: counts, both."),
        ("epochs: how many. Raises ValueError.", "- `epochs`: how many.\n\nRaises ValueError."),
        ("epochs (`a.b`): how many", "- `epochs`: how many"),
        ("Of the epochs: many. It is so: yes.", "Of the epochs: many. It is so: yes."),
        ("    epochs: code", "    epochs: code"),
        ("a list [C][C]", r"a list [C]\[C]"),
    ],
)
def test_parameters_become_a_list(building, docstring, expected):
    docstrings = building("docstrings", needs="griffe")
    documented = SimpleNamespace(docstring=SimpleNamespace(value=docstring))
    docstrings._rewrite(documented, {"epochs", "seed"})
    assert documented.docstring.value == expected


@pytest.mark.parametrize(
    ("html", "display"),
    [
        (r'<span class="arithmatex">\(\sqrt{a &lt; b}\)</span>', "inline"),
        ('<div class="arithmatex">\\[\n\\sqrt{a &lt; b}\n\\]</div>', "block"),
    ],
)
def test_formulas_become_mathml(building, html, display):
    drawn = building("formulas", needs="latex2mathml").on_page_content(f"<p>1 {html} 2</p>")
    assert drawn.startswith('<p>1 <math xmlns="http://www.w3.org/1998/Math/MathML"') and drawn.endswith("</math> 2</p>")
    assert f'display="{display}"' in drawn and "<msqrt>" in drawn and "&amp;" not in drawn


@pytest.mark.parametrize(
    ("uri", "text", "expected"),
    [
        ("tutorial/zh-CN/a.md", "一行。\n二行。\n\nend\n三\nfour", "一行。二行。\n\nend\n三\nfour"),
        ("a.zh-CN.md", "一\n二", "一二"),
        ("tutorial/a.md", "一行。\n二行。", "一行。\n二行。"),
    ],
)
def test_lines_of_chinese_pages_are_joined_without_a_space(building, uri, text, expected):
    hook, page = building("language", needs="mkdocs"), SimpleNamespace(file=SimpleNamespace(src_uri=uri))
    assert hook.on_page_markdown(text, page) == expected
    told = hook.on_post_page('<html lang="en">', page)
    assert told == ('<html lang="zh-CN">' if "zh-CN" in uri else '<html lang="en">')


@pytest.mark.parametrize(
    ("html", "refused"),
    [
        ('<script src="https://x.org/a.js">', True),
        ("<img alt='' src='//x.org/a.png'>", True),
        ('<link href="https://x.org/a.css" rel="stylesheet">', True),
        ('<link rel="canonical" href="https://x.org/">', False),
        ('<a href="https://x.org"><img src="a.png"></a><script src="a.js">', False),
    ],
)
def test_a_page_that_loads_from_elsewhere_is_refused(building, html, refused):
    hook, page = building("nothing_loaded", needs="mkdocs"), SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    if refused:
        with pytest.raises(Exception, match=r"a\.md: loads from elsewhere: .*x\.org"):
            hook.on_post_page(html, page)
    else:
        assert hook.on_post_page(html, page) is None
