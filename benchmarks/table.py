"""The figures that benchmarks keep as JSON, as Markdown tables: how many times ditzoo's time each way takes, and what memory.

python benchmarks/table.py docs/speed
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from ditzoo_dynamic.timing import Ratio

from ditzoo.machine import instructions, processor


def row(way: str, ratio: Ratio, **more: Any) -> dict[str, Any]:
    """Return the row of a way: its time in ditzoo's, and whatever else is known of it."""
    return {"way": way} | {name: round(value, 3) for name, value in ratio._asdict().items()} | more


def keep(path: Path | None, model: str, what: str, rows: Iterable[dict[str, Any]], *, runtime: str, threads: int | None = None) -> None:
    """Write the rows of a benchmark with what they were measured on, where a file is asked for."""
    if path is None:
        return
    machine = {"processor": " ".join([processor(), *instructions()]), "torch": torch.__version__}
    made = {"model": model, "what": what, "runtime": runtime, "threads": threads or torch.get_num_threads(), "rows": list(rows)} | machine
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def table(folder: Path) -> str:
    """Return the files of a folder as tables: the time of each way that is not ditzoo's in ditzoo's, and what memory was taken."""
    times = ["| model | what | way | times ditzoo's time | 95 % interval | on |", "| --- | --- | --- | --: | --- | --- |"]
    memory = ["| model | what | way | private MB | resident MB | on |", "| --- | --- | --- | --: | --: | --- |"]
    for path in sorted(folder.glob("*.json")):
        made = json.loads(path.read_text(encoding="utf-8"))
        on = f"{made['processor']}, {made['threads']} threads"
        for one in made["rows"]:
            begun = f"| `{made['model']}` | {made['what']} | {one['way']}"
            if "anonymous" in one:
                memory.append(f"{begun} | {one['anonymous']:,} | {one['resident']:,} | {on} |")
            elif one["way"] != "ditzoo":
                times.append(f"{begun} | {one['median']:.2f} | {one['low']:.2f} to {one['high']:.2f} | {on} |")
    return "\n\n".join("\n".join(lines) for lines in (times, memory) if len(lines) > 2) + "\n"  # a heading alone is no table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(table(parser.parse_args().folder), end="")
