"""The libraries of the extra `report`, which are loaded as they are needed."""

from __future__ import annotations

import importlib
from typing import Any

LIBRARIES = ("jinja2", "plotly.offline")


def check_libraries() -> None:
    """Raise what `require` would for the first that is missing, before anything is read or computed."""
    for name in LIBRARIES:
        require(name)


def require(module: str) -> Any:
    """`plotly...` or `jinja2`. Raises ImportError, saying what to install, where it is not there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        raise ImportError(f"HTML pages need {package}: pip install 'cifar-hapi[report]'") from error
