"""How pictures of docs/pictures look: SVG whose text is text, and the same bytes for the same numbers."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams |= {"svg.hashsalt": "cifar-hapi", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}

from matplotlib import pyplot as plt  # noqa: E402 - the backend comes first

__all__ = ["plt"]
