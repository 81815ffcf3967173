"""Run a command and draw what it prints as a terminal window.

python docs/pictures/record.py docs/pictures/train.svg make train
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 110


def main() -> None:
    picture, *command = sys.argv[1:]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    console = Console(record=True, width=WIDTH, force_terminal=True)
    console.print(Text("$ " + " ".join(command), style="bold green"))
    console.print(Text(printed.rstrip()))
    svg = console.export_svg(title="cifar-hapi")
    Path(picture).write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
