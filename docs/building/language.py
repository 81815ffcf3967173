"""Chinese pages say that they are, so that browsers take Chinese glyphs, and have no spaces where their lines ended."""

from __future__ import annotations

import re
from typing import Any

_WIDE = "[\u2e80-\u9fff\uff00-\uffef]"
_LINE_END = re.compile(f"(?<={_WIDE})\n(?={_WIDE})")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs calls this with the text of each page."""
    return _LINE_END.sub("", markdown) if _is_chinese(page) else markdown


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """MkDocs calls this with each page as it will be written."""
    return output.replace('<html lang="en"', '<html lang="zh-CN"', 1) if _is_chinese(page) else output


def _is_chinese(page: Any) -> bool:
    return "zh-CN" in page.file.src_uri
