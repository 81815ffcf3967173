"""Draw the errors of plain and residual networks of two depths by epoch, as figure 6 of He et al. 2015 does.

python docs/pictures/depth.py docs/results docs/pictures/depth.svg

The runs are those of `python docs/results/train.py plain20 resnet20 plain56 resnet56`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from style import plt  # beside this file

COLOURS = {"20": "#2B83C6", "56": "#E69F00"}  # told apart by colour-blind readers, too; the deeper ones are thicker


def main() -> None:
    results, picture = map(Path, sys.argv[1:])
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True)
    for axis, kind in zip(axes, ("plain", "resnet"), strict=True):
        for depth, colour in COLOURS.items():
            draw(axis, results / f"{kind}{depth}-0", f"{kind}{depth}", colour, 1.2 if depth == "20" else 2.2)
        axis.set_xlabel("epoch")
        axis.legend(frameon=False)
    axes[0].set_ylabel("error, %")
    axes[0].set_title("lines: held-out images; dashed: training images; dots: all test images", loc="left", fontsize=8)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})


def draw(axis: Any, folder: Path, label: str, colour: str, width: float) -> None:
    """Held-out errors as a line, those on the training images dashed, the test error as a dot at the end."""
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    epochs = [record["epoch"] for record in records]
    for key, style, name in (("eval_acc", "-", label), ("acc", "--", None)):
        axis.plot(epochs, [100 - 100 * record[key] for record in records], style, color=colour, lw=width, label=name)
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    axis.plot(epochs[-1:], [100 - 100 * evaluation["top1"]], "o", color=colour, ms=4)


if __name__ == "__main__":
    main()
