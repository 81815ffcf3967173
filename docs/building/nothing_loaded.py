"""No page of the site may load anything from elsewhere: it has to look the same without a network."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["'](?:https?:)?//[^"']*"""
    r"""|<link\b(?=[^>]*\brel=["'](?:stylesheet|preconnect|preload|icon))[^>]*\bhref=["'](?:https?:)?//[^"']*"""
)


def on_post_page(output: str, page: Any, **_: Any) -> None:
    """MkDocs calls this with each page as it will be written."""
    if found := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri}: loads from elsewhere: {found[0]}")
