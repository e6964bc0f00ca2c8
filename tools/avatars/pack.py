"""Compose captioned pixel avatars, draw them at 16x16, and pack them into one file with their captions and attributes.

    cd tools/avatars && npm install && pip install resvg-py pillow
    python pack.py ../../plugins/ditzoo_data/avatars.safetensors.xz

The parts are DiceBear's "Pixel Art", CC0 1.0; which parts go together is drawn here, from a fixed seed.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import random
import re
import subprocess
from pathlib import Path

import numpy as np
import resvg_py
import torch
from PIL import Image
from safetensors.torch import save

SIDE, TRAIN, TEST, SEED = 16, 24_000, 4_000, 0
# attribute -> value -> what the style calls it; the first of `glasses`, `beard` and `hat` is none
SKIN = {"light": ["ffdbac", "f5cfa0"], "tan": ["cb9e6e", "b68655"], "dark": ["8d5524"]}
HAIR = {"black": "28150a", "brown": "83623b", "blond": "cab188", "red": "bd1700", "blue": "009bbd", "green": "91cb15"}
SHIRT = {"red": "d11141", "green": "00b159", "blue": "428bca", "yellow": "ffc425", "white": "ffeead"}
BACKGROUND = {"purple": "9b7fd4", "pink": "f4a6c8", "orange": "f2a65a", "grey": "b8bcc2", "teal": "4db6ac", "navy": "2c3e6b"}
HAT = {"red": "a62116", "blue": "2663a3", "green": "3d8a6b", "purple": "614f8a"}
VALUES = {
    "skin": list(SKIN),
    "length": ["short", "long"],
    "hair": list(HAIR),
    "shirt": list(SHIRT),
    "mood": ["happy", "sad"],
    "background": list(BACKGROUND),
    "glasses": ["no", "glasses"],
    "beard": ["no", "beard"],
    "hat": ["no", *HAT],
}
# A beard is hair colour behind a mask that is filled with the same colour, so by the mask's luminance dark beards all but vanish.
MASK = re.compile(r'(<path opacity="\.9" [^>]*fill=")#[0-9a-f]{6}')
HELD_OUT = 0.15  # of the combinations of hair, shirt and background are in no training picture
LEFT_UNSAID = 0.15  # of an attribute's mentions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    draw = random.Random(SEED)
    combinations = [(h, s, b) for h in HAIR for s in SHIRT for b in BACKGROUND]
    unseen = set(draw.sample(combinations, round(HELD_OUT * len(combinations))))
    seen = [one for one in combinations if one not in unseen]
    chosen = [described(draw, draw.choice(seen)) for _ in range(TRAIN)]
    chosen += [described(draw, draw.choice(sorted(unseen) if i % 2 else seen)) for i in range(TEST)]
    asked = [options(one, f"{SEED}-{index}", draw) for index, one in enumerate(chosen)]
    pictures = drawn(asked)
    captions = [caption(one, draw if index < TRAIN else None) for index, one in enumerate(chosen)]
    attributes = np.array([[VALUES[name].index(one[name]) for name in VALUES] for one in chosen], dtype=np.uint8)
    tensors = {
        "pictures": torch.from_numpy(pictures),
        "attributes": torch.from_numpy(attributes),
        "captions": torch.frombuffer(bytearray("\n".join(captions).encode()), dtype=torch.uint8),
        "unseen": torch.tensor([(one["hair"], one["shirt"], one["background"]) in unseen for one in chosen]),
    }
    told = {"values": json.dumps(VALUES), "train": str(TRAIN), "license": "CC0-1.0, DiceBear Pixel Art"}
    args.out.write_bytes(lzma.compress(save(tensors, told), preset=9 | lzma.PRESET_EXTREME))
    apart = len({picture.tobytes() for picture in pictures})
    print(f"{len(pictures)} avatars, {apart} of them different, {len(unseen)} combinations unseen, {args.out.stat().st_size / 1e6:.2f} MB")


def described(draw: random.Random, combination: tuple[str, str, str]) -> dict[str, str]:
    """Choose the values of an avatar with a given hair, shirt and background."""
    hair, shirt, background = combination
    hat = draw.choice(list(HAT)) if draw.random() < 0.15 else "no"
    return {
        "skin": draw.choice(VALUES["skin"]),
        "length": draw.choice(VALUES["length"]) if hat == "no" else "long",  # a hat hides short hair, and its colour with it
        "hair": hair,
        "shirt": shirt,
        "mood": draw.choice(VALUES["mood"]),
        "background": background,
        "glasses": "glasses" if draw.random() < 0.3 else "no",
        "beard": "beard" if draw.random() < 0.15 else "no",
        "hat": hat,
    }


def options(one: dict[str, str], seed: str, draw: random.Random) -> dict[str, object]:
    """Return the style's options for an avatar; `seed` chooses among the parts that are left open."""
    numbers = [f"{n:02d}" for n in range(1, 25)]
    return {
        "seed": seed,
        "skinColor": [draw.choice(SKIN[one["skin"]])],
        "hair": [f"{one['length']}{n}" for n in numbers[: 24 if one["length"] == "short" else 21]],
        "hairColor": [HAIR[one["hair"]]],
        "clothingColor": [SHIRT[one["shirt"]]],
        "mouth": [f"{one['mood']}{n}" for n in numbers[: 13 if one["mood"] == "happy" else 10]],
        "backgroundColor": [BACKGROUND[one["background"]]],
        "glasses": [f"dark{n}" for n in numbers[:7]],
        "glassesColor": ["191919"],
        "glassesProbability": 100 * (one["glasses"] != "no"),
        "beardProbability": 100 * (one["beard"] != "no"),
        "hatProbability": 100 * (one["hat"] != "no"),
        "hatColor": [HAT.get(one["hat"], "2663a3")],
        "accessoriesProbability": 0,
    }


def drawn(asked: list[dict[str, object]]) -> np.ndarray:
    """Return pictures (N, 16, 16, 3)."""
    lines = "\n".join(map(json.dumps, asked)) + "\n"
    done = subprocess.run(["node", "compose.mjs"], input=lines, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    pictures = []
    for line in done.stdout.splitlines():
        svg = MASK.sub(r"\1#fff", json.loads(line)["svg"])
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE))
        pictures.append(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))
    return np.stack(pictures)


def caption(one: dict[str, str], draw: random.Random | None) -> str:
    """Say an avatar's values; with `draw` each is left unsaid now and then, as people do."""
    said = {
        "skin": f"{one['skin']} skin",
        "hair": f"{one['length']} {one['hair']} hair",
        "shirt": f"{one['shirt']} shirt",
        "glasses": "glasses" if one["glasses"] != "no" else "",
        "beard": "beard" if one["beard"] != "no" else "",
        "hat": f"{one['hat']} hat" if one["hat"] != "no" else "",
        "mood": one["mood"],
        "background": f"{one['background']} background",
    }
    kept = [text for text in said.values() if text and (draw is None or draw.random() >= LEFT_UNSAID)]
    return ", ".join(kept or [said["hair"]])


if __name__ == "__main__":
    main()
