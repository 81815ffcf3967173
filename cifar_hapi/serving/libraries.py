"""The libraries of the extra `serve`."""

from __future__ import annotations

import importlib

LIBRARIES = ("fastapi", "uvicorn", "h11")


def check_libraries() -> None:
    """Raise ImportError, saying what to install, for the first that is missing."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ImportError(f"serving needs {name}: pip install 'cifar-hapi[serve]'") from error
