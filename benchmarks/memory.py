"""The memory that sampling takes: DiT-XL/2 in fp32 by name, eight guided pictures, ditzoo beside diffusers.

    python benchmarks/memory.py                       # writes a random DiT-XL/2 repository with diffusers first (3.4 GB)
    python benchmarks/memory.py --steps 1 --batch 8 --out docs/speed/memory-dit-xl-2.json

Each is a process of its own that loads from the hub's cache and samples latents. `anonymous` is the peak of private memory (RssAnon, every
2 ms); `resident` that of all resident memory (VmHWM), pages of the mapped file included, which the system takes back when it wants them.
`eager` is ditzoo without packed weights.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from load import COMMIT, random_repository, run
from table import keep

OURS = """
import ditzoo
model = ditzoo.load('hf-hub:random/DiT-XL-2@{commit}'{more})
model.sample(class_labels=[1] * {batch}, num_inference_steps={steps}, guidance_scale=1.5, batch_size={batch}, output_type='latent')
"""
THEIRS = """
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
where = dict(revision='{commit}')
network = DiTTransformer2DModel.from_pretrained('random/DiT-XL-2', subfolder='transformer', **where)
scheduler = DDIMScheduler.from_pretrained('random/DiT-XL-2', subfolder='scheduler', **where)
scheduler.set_timesteps({steps})
x, labels = torch.randn({batch}, 4, 32, 32), torch.tensor([1] * {batch} + [1000] * {batch})
with torch.no_grad():
    for t in scheduler.timesteps:
        out = network(torch.cat([x, x]), timestep=t.expand(len(labels)), class_labels=labels, return_dict=False)[0][:, :4]
        asked, absent = out.chunk(2)
        x = scheduler.step(absent + 1.5 * (asked - absent), t, x).prev_sample
"""
WAYS = {"ditzoo": (OURS, ""), "ditzoo, eager": (OURS, ", runtime='eager'"), "diffusers": (THEIRS, "")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="keep the random model in this cache and use it again")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, for benchmarks/table.py")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache = words.cache or Path(scratch)
        if not (cache / "models--random--DiT-XL-2").exists():
            random_repository(cache, "random/DiT-XL-2")
        env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
        given = {"commit": COMMIT, "batch": words.batch, "steps": words.steps}
        found = {name: run(code.format(more=more, **given), env) for name, (code, more) in WAYS.items()}
    for name, told in found.items():
        shares = {kind: told[kind] / found["diffusers"][kind] for kind in ("anonymous", "resident")}
        print(
            f"{name:<15}anonymous {told['anonymous'] / 1e6:7,.0f} MB ({shares['anonymous']:.2f} of diffusers')   "
            f"resident {told['resident'] / 1e6:7,.0f} MB ({shares['resident']:.2f})"
        )
    if words.out:
        rows = [{"way": name} | {kind: round(told[kind] / 1e6) for kind in ("anonymous", "resident")} for name, told in found.items()]
        keep(words.out, "dit-xl-2-256", f"{words.batch} guided pictures, at the peak", rows, runtime="auto")


if __name__ == "__main__":
    main()
