"""What the tests of pages share."""

from __future__ import annotations

import browser
import pytest


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.started(tmp_path_factory.mktemp("profile")) as found:
        yield found
