"""Name to model ready: loading DiT-XL/2 by name from the hub's warm cache, ditzoo beside diffusers, and the memory that it takes.

    python benchmarks/load.py                     # writes a random DiT-XL/2 repository with diffusers into a cache of its own (3.4 GB)
    python benchmarks/load.py --repo facebook/DiT-XL-2-256     # the published weights, if they are in the hub's cache

Each run is a process of its own, offline, timed from its start to the moment that the model is there; the three alternate. `network`
is `DiTTransformer2DModel.from_pretrained`, `pipeline` is `DiTPipeline.from_pretrained`, which loads the autoencoder too (ditzoo opens it
when the first picture is decoded). Ratios are medians of the ratios of neighbours. `anonymous` is the peak of private memory (RssAnon,
every 2 ms), interpreter and torch included; `resident` the peak of all resident memory (VmHWM), pages of the mapped file included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WATCH = """
import json, threading, time
peak, done = [0], threading.Event()
def told(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], told("RssAnon"))
threading.Thread(target=watch, daemon=True).start()
"""
LOADS = {
    "ditzoo": "import ditzoo; model = ditzoo.load('hf-hub:{repo}@{commit}', dtype='{dtype}')",
    "network": "import torch; from diffusers import DiTTransformer2DModel as Network; "
    "model = Network.from_pretrained('{repo}', subfolder='transformer', revision='{commit}', torch_dtype=torch.{dtype})",
    "pipeline": "import torch; from diffusers import DiTPipeline; "
    "model = DiTPipeline.from_pretrained('{repo}', revision='{commit}', torch_dtype=torch.{dtype})",
}
REPORT = """
ready = time.time()
done.set()
print(json.dumps({"ready": ready, "anonymous": max(peak[0], told("RssAnon")), "resident": told("VmHWM")}))
"""


def run(code: str, env: dict[str, str]) -> dict[str, float]:
    """Run code in a process; return the seconds from its start until it was done, and what it tells of its memory."""
    begun = time.time()
    done = subprocess.run([sys.executable, "-c", WATCH + code + REPORT], env=env, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": told.pop("ready") - begun, **told}


def random_repository(cache: Path, repo: str) -> None:
    """Write a random DiT-XL/2 pipeline into a hub cache, as a download would have left it."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot, blobs = root / "snapshots" / COMMIT, root / "blobs"
    for folder in (snapshot, blobs, root / "refs"):
        folder.mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    torch.manual_seed(0)
    network = DiTTransformer2DModel(out_channels=8)
    first = network.transformer_blocks[0].norm1.emb.state_dict()
    for block in network.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    network.save_pretrained(snapshot / "transformer")
    DDIMScheduler(clip_sample=False).save_pretrained(snapshot / "scheduler")
    ends = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    AutoencoderKL(block_out_channels=[128, 256, 512, 512], layers_per_block=2, **ends).save_pretrained(snapshot / "vae")
    members = {"scheduler": "DDIMScheduler", "transformer": "DiTTransformer2DModel", "vae": "AutoencoderKL"}
    index = {"_class_name": "DiTPipeline"} | {name: ["diffusers", word] for name, word in members.items()}
    (snapshot / "model_index.json").write_text(json.dumps(index))
    for path in [path for path in snapshot.rglob("*") if path.is_file()]:
        with path.open("rb") as file:
            blob = blobs / hashlib.file_digest(file, "sha256").hexdigest()
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", help="repository in diffusers' layout in the hub's cache; without it a random DiT-XL/2 is written")
    parser.add_argument("--commit", default="eab87f77abd5aef071a632f08807fbaab0b704d0", help="its commit")
    parser.add_argument("--cache", type=Path, help="keep the random model in this cache and use it again")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        env = os.environ | {"HF_HUB_OFFLINE": "1"}
        repo, commit = words.repo or "random/DiT-XL-2", words.commit if words.repo else COMMIT
        if not words.repo:
            cache = words.cache or Path(scratch)
            env["HF_HUB_CACHE"] = str(cache)
            if not (cache / "models--random--DiT-XL-2").exists():
                random_repository(cache, repo)
        figures: dict[str, object] = {}
        for dtype, repeats in (("float32", words.repeats), ("bfloat16", max(1, words.repeats // 3))):
            rounds = []
            for turn in range(repeats + 1):
                figure = {name: run(code.format(repo=repo, commit=commit, dtype=dtype), env) for name, code in LOADS.items()}
                if turn:  # the first warms the page cache
                    rounds.append(figure)
            figures[dtype] = rounds
            print(f"{dtype}, medians of {len(rounds)} rounds")
            for name in LOADS:
                ratio, seconds, anonymous, resident = (
                    statistics.median(values)
                    for values in (
                        [figure[name]["seconds"] / figure["ditzoo"]["seconds"] for figure in rounds],
                        *([figure[name][key] for figure in rounds] for key in ("seconds", "anonymous", "resident")),
                    )
                )
                print(
                    f"  {name:<10}{ratio:5.2f} times ditzoo's time {seconds:7.2f} s   "
                    f"anonymous {anonymous / 1e6:6,.0f} MB   resident {resident / 1e6:6,.0f} MB"
                )
    if words.out:
        words.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
