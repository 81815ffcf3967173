"""Runs the notebooks and writes each, with what it printed and drew, as a page beside it, in both languages.

    python docs/tutorial/render.py            # all
    python docs/tutorial/render.py 1 5        # some, by their numbers

The Chinese notebooks have the same code, so that each is run once. Run it without CIFAR_HAPI_DATA: pages must not hold
images of CIFAR-10.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def main() -> None:
    import jupytext
    from nbclient import NotebookClient

    os.environ.pop("CIFAR_HAPI_DATA", None)
    for script in sorted(FOLDER.glob("[0-9]_*.py")):
        if sys.argv[1:] and script.name[0] not in sys.argv[1:]:
            continue
        notebook = jupytext.read(script)
        NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
        write_page(notebook, script)
        translated = FOLDER / "zh-CN" / script.name
        if translated.exists():
            chinese = jupytext.read(translated)
            chinese.metadata = notebook.metadata  # which names the language of the code
            take_outputs(chinese, notebook)
            write_page(chinese, translated)
        print(script.stem, flush=True)


def take_outputs(notebook: Any, run: Any) -> None:
    """Give `notebook` the outputs of `run`, which has the same code."""
    cells, others = ([cell for cell in each.cells if cell.cell_type == "code"] for each in (notebook, run))
    for cell, other in zip(cells, others, strict=True):
        assert cell.source == other.source, cell.source
        cell.outputs = other.outputs


def write_page(notebook: Any, script: Path) -> None:
    """The page `script`.md, and its pictures in `pictures`, which both languages share."""
    from nbconvert import MarkdownExporter
    from traitlets.config import Config

    for cell in notebook.cells:
        if cell.cell_type == "code":  # warnings are the machine's
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    config = Config()
    config.ExtractOutputPreprocessor.enabled = True
    config.ExtractOutputPreprocessor.output_filename_template = "{unique_key}_{cell_index}{extension}"
    names = {"unique_key": script.stem, "output_files_dir": os.path.relpath(FOLDER / "pictures", script.parent)}
    text, resources = MarkdownExporter(config=config).from_notebook_node(notebook, resources=names)
    script.with_suffix(".md").write_text(text, encoding="utf-8")
    for name, data in resources["outputs"].items():
        target = script.parent / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)


if __name__ == "__main__":
    main()
