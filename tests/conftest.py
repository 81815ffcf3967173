"""What all tests share: one quiet thread of arithmetic, and the way to the real CIFAR-10."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REAL_DATA = Path(os.environ.get("CIFAR_HAPI_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    """The folder of the real CIFAR-10; the test is skipped where there is none."""
    if not (REAL_DATA / "cifar-10-batches-py").is_dir():
        pytest.skip("no real CIFAR-10 here (set CIFAR_HAPI_DATA)")
    return REAL_DATA
