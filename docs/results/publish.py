"""Put what a run tells of itself beside docs/results.md: run.json, evaluation.json, history.jsonl.

python docs/results/publish.py runs/quick-0 docs/results/quick-0

The command and the data's source stay behind: they name folders of the machine that the run was made on.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

PRIVATE = ("command", "source", "dir", "pretrained")


def main() -> None:
    publish(*map(Path, sys.argv[1:]))


def publish(run: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "history.jsonl", target / "history.jsonl")
    for name in ("run.json", "evaluation.json"):  # the last one tells that all are there
        told = json.loads((run / name).read_text(encoding="utf-8"))
        (target / name).write_text(json.dumps(published(told), indent=1) + "\n", encoding="utf-8")


def published(value: Any) -> Any:
    """A JSON value without what names folders: commands, and data or weights that are paths."""
    if isinstance(value, list):
        return [published(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: published(each)
        for key, each in value.items()
        if not (key in PRIVATE and (isinstance(each, list) or "/" in str(each)))
    }


if __name__ == "__main__":
    main()
