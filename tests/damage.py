"""Damage to what a reader is given, as hypothesis draws it."""

from __future__ import annotations

from hypothesis import strategies as st


def damaged(draw, contents):
    """`contents` with up to four places overwritten, shortened or lengthened by a few bytes, and perhaps cut short."""
    changed = bytearray(contents)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(changed)))
        end = draw(st.integers(start, min(start + 4, len(changed))))
        changed[start:end] = draw(st.binary(max_size=4))
    return bytes(changed[: draw(st.integers(0, len(changed)) | st.just(len(changed)))])
