"""The figures that benchmarks wrote as JSON, as a Markdown table: how many times ditzoo's time each way takes.

python benchmarks/table.py docs/speed
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def table(folder: Path) -> str:
    """Return the ratios of every file in a folder, a row each: its model, what was measured, and the ways that are no ditzoo's."""
    lines = ["| model | what | way | times ditzoo's time | 95 % interval |", "| --- | --- | --- | --: | --- |"]
    for path in sorted(folder.glob("*.json")):
        made = json.loads(path.read_text(encoding="utf-8"))
        for row in made["rows"]:
            if "ratio" in row and row["way"] != "ditzoo":
                spread = f"{row['low']:.2f} to {row['high']:.2f}"
                lines.append(f"| `{made['model']}` | {made['what']} | {row['way']} | {row['ratio']:.2f} | {spread} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(table(parser.parse_args().folder), end="")
