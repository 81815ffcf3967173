"""What a request is told that is not answered: a status and one sentence."""

from __future__ import annotations

import json
from typing import Any


class Refusal(Exception):
    """A request that cannot be answered.

    status: of HTTP. sentence: what is wrong. retry_after: seconds, where it may go well later. place: which image of
    the request it is about, counted from 0, and what that is called.
    """

    def __init__(
        self, status: int, sentence: str, *, retry_after: int | None = None, place: tuple[int, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after, self.place = status, sentence, retry_after, place

    @property
    def content(self) -> dict[str, Any]:
        """The body of the answer."""
        image, file = self.place or (None, None)
        about = {} if image is None else {"image": image, "file": file}
        return {"error": self.sentence, **about}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


def as_json(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False, ensure_ascii=False).encode("utf-8", "replace")


def printable(text: str, most: int = 100) -> str:
    """`text` in one line, as long as that: what strangers have called their files goes into sentences."""
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return line if len(line) <= most else f"{line[: most - 1]}…"
