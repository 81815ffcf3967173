"""An HTML page of one file: sections around pictures, and all that it takes to draw them, so that it needs no network.

Layer and file names in it may hold anything: text is escaped by Jinja, figures are in Base64, and the page's policy
forbids the browser to load anything whatever.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callbacks.durable import write_file
from cifar_hapi.errors import RecipeError
from cifar_hapi.report.libraries import require

_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """A part of a page.

    title: its heading. html: what is below it, safe as it is. figures: what its pictures show, as `encoded`, for its
    `script`, JavaScript that is called with them and with the section's element, when the page is there. of: the run
    that it is about, where others are on the page, too.
    """

    title: str
    html: str
    script: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    of: str = ""

    @property
    def heading(self) -> str:
        """The title with the run's name before it."""
        return f"{self.of}: {self.title.lower()}" if self.of else self.title

    @property
    def packed(self) -> str:
        """The figures as JSON, compressed to a fifth, in Base64."""
        text = json.dumps(self.figures, separators=(",", ":"), allow_nan=False)
        return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def check_page_name(path: Path) -> None:
    """Raise RecipeError unless a page may be written there: never over a run's own files, or anyone's."""
    if path.is_dir():
        raise RecipeError(f"{path}: is a folder; name a file for the page")
    if path.suffix.lower() not in (".html", ".htm"):
        raise RecipeError(f"{path}: is not the name of a page; let it end in .html")


def write_page(path: Path, title: str, sections: Sequence[Section]) -> Path:
    """Write a page to `path`, all of it or nothing, and give that back; folders on the way are made."""
    page = render_page(title, sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, page)
    return path


def render_page(title: str, sections: Sequence[Section]) -> str:
    """The page, with plotly.js in it once. Raises ImportError without plotly or Jinja."""
    library = require("plotly.offline").get_plotlyjs()
    pieces = {"style": template("page.css"), "drawing": template("drawing.js"), "plotly": library}
    return render("page.html", title=title, sections=sections, **pieces)


def render(name: str, **values: Any) -> str:
    """The HTML of a template; what is put into it is escaped."""
    jinja2 = require("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return str(environment.get_template(name).render(**values))


def template(name: str) -> str:
    """A file of the folder of templates as it is."""
    return (_FOLDER / name).read_text("utf-8")
