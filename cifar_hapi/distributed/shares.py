"""Who of several processes takes what of a batch."""

from __future__ import annotations


def share(size: int, rank: int, count: int) -> slice:
    """Which of `size` things in a row are this rank's: as `np.array_split` deals, the first ones get one more."""
    least, more = divmod(size, count)
    start = rank * least + min(rank, more)
    return slice(start, start + least + (rank < more))
