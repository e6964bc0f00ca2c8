"""Pictures per second of two processes with a thread each, against one process with one thread; and whether the pictures are the same.

    python benchmarks/processes.py fashion-dit --num 512 --rounds 3 --out docs/speed/processes-fashion-dit.json

Each run is `ditzoo sample --num N` into shards, from its start to its end, loading included; the two alternate. Ratios are medians over
neighbouring runs. Shards have to hold the same bytes, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from ditzoo_dynamic.timing import ratios
from table import keep, row

WAYS = {
    "one process": [sys.executable, "-m", "ditzoo"],
    "two processes": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ditzoo"],
}


def drawn(way: str, model: str, num: int, batch: int, folder: Path) -> tuple[float, dict[str, str]]:
    """Draw into a folder with a thread a process; return the seconds, and the shards with their hashes.

    torchrun takes `--num` for one of its own options cut short, so the long name is given.
    """
    shards = ["--num-samples", str(num), "--shard-size", str(max(1, num // 8)), "--batch-size", str(batch), "--out", str(folder)]
    command, environment = [*WAYS[way], "sample", model, *shards], os.environ | {"OMP_NUM_THREADS": "1"}
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    taken = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.stderr)
    return taken, {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.npz"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--num", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, for benchmarks/table.py")
    words = parser.parse_args()
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(words.rounds):
            rows = {way: drawn(way, words.model, words.num, words.batch_size, Path(folder) / f"{way}-{index}") for way in WAYS}
            taken.append([seconds for seconds, _ in rows.values()])
            first, second = (shards for _, shards in rows.values())
            if not first or first != second:
                raise SystemExit("the shards of one process and of two differ")
    seconds = torch.tensor(taken, dtype=torch.float64)
    found = ratios(seconds, 1)[0]
    median = seconds.median(0).values.tolist()
    for way, one in zip(WAYS, median, strict=True):
        print(f"{way:<14}{one:8.1f} s for {words.num} pictures of {words.model}")
    print(f"two processes draw {found.median:.2f} times as many pictures per second ({found.low:.2f} to {found.high:.2f}); the same bytes")
    what = f"{words.num} pictures by two processes, a thread each"
    keep(words.out, words.model, what, [row("one process", found)], runtime="auto", threads=1)


if __name__ == "__main__":
    main()
