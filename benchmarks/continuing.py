"""What becomes of given frames: image-to-video from real first frames, and clips that go on from their own end.

    python benchmarks/continuing.py moving-fashion-video --count 500 --long 200 --out docs/moving-fashion-continuing.json

Image-to-video: the first frame of clips that no training clip shares an article with is given with their captions. `distance` is the mean
distance of later frames to the first in the features of `motion-cnn`, beside that of the real clips; `motion` and `article` are the shares
that the network reads as they were asked for. Extension: clips of four times the trained length, as the model's own sampler draws them, or
with `--chain` each window going on from the last quarter of the one before; agreement in the first window and in the last.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import ditzoo
from ditzoo.assemble import Model
from ditzoo.interfaces import Dataset, Features
from ditzoo.zoo import Zoo

AT_ONCE, TIMES = 16, 4
TEST = {"kind": "moving-fashion", "articles": {"kind": "fashion-mnist", "split": "test"}, "unsaid": 0.0, "upright": 0.9, "one_size": True}


def strayed(network: Features, pixels: Tensor) -> Tensor:
    """Return how far the frames of clips (B, 1, T, H, W) are from the first, each clip's mean (B,)."""
    frames = network.see(pixels).frames
    assert frames is not None
    return (frames[:, 1:] - frames[:, :1]).norm(dim=-1).mean(1)


def right(network: Features, pixels: Tensor, wanted: Tensor) -> Tensor:
    """Return which of article, motion and speed (B, 3) the network reads as they were asked for."""
    found = network.see(pixels).attributes
    assert found is not None
    return (found.cpu() == wanted).double()


def drawn(model: Model, network: Features, clips: Dataset, rows: Sequence[int]) -> dict[str, Tensor]:
    """Draw clips around real first frames; return what the network makes of them and of the real ones."""
    real = torch.stack([clips[row]["pixels"] for row in rows])
    asked = [clips[row]["item"] for row in rows]
    first = real[:, :, :1] / 2 + 0.5
    made = model.sample(prompt=asked, given=first, num_frames=real.shape[2], output_type="pt", seed=0, first_index=rows[0]).frames * 2 - 1
    wanted = clips.attributes[list(rows)]  # type: ignore[attr-defined]
    return {"distance": strayed(network, made), "real": strayed(network, real), "right": right(network, made, wanted)}


def extended(model: Model, network: Features, clips: Dataset, rows: Sequence[int], frames: int, chain: bool) -> dict[str, Tensor]:
    """Draw long clips; return what is right in their first window and in their last."""
    asked, wanted = [clips[row]["item"] for row in rows], clips.attributes[list(rows)]  # type: ignore[attr-defined]
    windows = {"window": frames, "overlap": frames // 4} if chain else {}
    made = model.sample(prompt=asked, num_frames=TIMES * frames, output_type="pt", seed=1, first_index=rows[0], **windows)
    pixels = made.frames * 2 - 1
    return {"first": right(network, pixels[:, :, :frames], wanted), "last": right(network, pixels[:, :, -frames:], wanted)}


def parts(count: int) -> list[range]:
    return [range(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE)]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--count", type=int, default=500, help="clips from a given frame")
    parser.add_argument("--long", type=int, default=200, help="clips of four times the length")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting over the model, as 'ditzoo sample' takes it")
    parser.add_argument("--chain", action="store_true", help="long clips go on from their own end, window by window")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    words = parser.parse_args()
    zoo = Zoo.installed()
    model = ditzoo.load(words.model, zoo=zoo, settings=words.settings)
    clips, network = zoo.part("dataset", TEST).build(), zoo.part("features", "motion-cnn").build()  # type: ignore[attr-defined]
    frames = model.spec.pixel_size()[0]
    given = [drawn(model, network, clips, rows) for rows in tqdm(parts(words.count), desc="from a frame")]
    seen = {name: torch.cat([one[name] for one in given]) for name in given[0]}
    article, motion, _ = seen["right"].mean(0).tolist()
    distance, real = seen["distance"].mean().item(), seen["real"].mean().item()
    made: dict[str, Any] = {"from a frame": {"clips": words.count, "distance": distance, "of real clips": real, "ratio": distance / real}}
    made["from a frame"] |= {"article": article, "motion": motion}
    print(f"from a frame: distance {distance:.3f}, {distance / real:.2f} of real clips'; article {article:.3f}, motion {motion:.3f}")
    long = [extended(model, network, clips, rows, frames, words.chain) for rows in tqdm(parts(words.long), desc="extended")]
    ends = {name: torch.cat([one[name] for one in long]).mean(0).tolist() for name in ("first", "last")}
    made["extended"] = {"clips": words.long, "frames": TIMES * frames, "chain": words.chain} | {
        f"{name} window": {"article": shares[0], "motion": shares[1]} for name, shares in ends.items()
    }
    for name, shares in ends.items():
        print(f"{TIMES * frames} frames, {name} window: article {shares[0]:.3f}, motion {shares[1]:.3f}")
    if words.out:
        words.out.write_text(json.dumps(made | {"model": words.model, "settings": words.settings}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
