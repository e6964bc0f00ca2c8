"""The recipes of the small networks that ship here.

python -m ditzoo_features.training fashion-cnn      # about nine minutes on two cores
python -m ditzoo_features.training avatar-cnn       # about four
python -m ditzoo_features.training motion-cnn       # about twenty-five
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ditzoo.interfaces import Dataset
from ditzoo.noise import derived_seed, generator
from ditzoo.specs import DatasetSpec
from ditzoo.weights import save_weights
from ditzoo.zoo import Zoo
from ditzoo_features import avatar_cnn, fashion_cnn, motion_cnn

BATCH, EPOCHS, LR, SEED = 128, 10, 4e-3, 0
STILLS, CLIPS = 1_200_000, 120_000  # each other than the rest: twenty frames of every article for what it is, two clips for how it moves
LEAN, TURNED = math.radians(6), 0.25  # of stills: how far they lean, one standard deviation, and the share that is turned by any angle
Loss = Callable[[Tensor, torch.Generator], Tensor]  # of the rows of a batch, and what draws


def fit(name: str, network: nn.Module, count: int, loss_of: Loss, *, epochs: int = EPOCHS, bf16: bool = False) -> None:
    """Train on `count` pictures with AdamW and a one-cycle learning rate; seeded by the name. `bf16` runs products in bfloat16."""
    draws, length = generator(SEED, name), count // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * length)
    network.train()
    for step in tqdm(range(epochs * length), desc=name, unit="step", disable=None):
        if step % length == 0:
            order = torch.randperm(count, generator=draws)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(order[step % length * BATCH :][:BATCH], draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


def pictures_of(dataset: Dataset) -> Tensor:
    """Return all pictures (N, C, H, W) in [-1, 1]."""
    return torch.stack([dataset[index]["pixels"] for index in range(len(dataset))])


def labels_of(dataset: Dataset) -> Tensor:
    """Return all labels (N,)."""
    return torch.tensor([dataset[index]["item"] for index in range(len(dataset))])


def dataset_of(zoo: Zoo, data: dict[str, Any]) -> Dataset:
    """Return the working dataset that data describes."""
    spec = zoo.part("dataset", data)
    assert isinstance(spec, DatasetSpec)
    return spec.build()


def mirrored(batch: Tensor, draws: torch.Generator) -> Tensor:
    """Return pictures or clips (B, ..., W), every other one mirrored."""
    coins = torch.rand(len(batch), generator=draws).view(-1, *[1] * (batch.dim() - 1))
    return torch.where(coins < 0.5, batch.flip(-1), batch)


def noisy(batch: Tensor, level: float, draws: torch.Generator) -> Tensor:
    """Put a little noise over pictures or clips, up to a level: what a model draws is not as clean as what was composed."""
    levels = torch.rand(len(batch), *[1] * (batch.dim() - 1), generator=draws) * level
    return batch + levels * torch.randn(batch.shape, generator=draws)


def classifier_loss(network: nn.Module, pictures: Tensor, labels: Tensor) -> Loss:
    """Cross-entropy of the class, every other picture mirrored."""

    def loss(rows: Tensor, draws: torch.Generator) -> Tensor:
        batch = mirrored(pictures[rows], draws)
        return F.cross_entropy(network(batch)[1], labels[rows], label_smoothing=0.05)

    return loss


def attributes_loss(network: nn.Module, pictures: Tensor, attributes: Tensor) -> Loss:
    """Cross-entropy of each attribute, under a little noise."""

    def loss(rows: Tensor, draws: torch.Generator) -> Tensor:
        scores = network(noisy(pictures[rows], 0.15, draws))[1]
        return torch.stack([F.cross_entropy(score, attributes[rows, i]) for i, score in enumerate(scores)]).mean()

    return loss


def turned(batch: Tensor, draws: torch.Generator) -> Tensor:
    """Turn pictures (B, C, H, W) that are -1 around what they show: all a little, some by any angle."""
    angles = LEAN * torch.randn(len(batch), generator=draws)
    any_angle = 2 * math.pi * torch.rand(len(batch), generator=draws)
    angles = torch.where(torch.rand(len(batch), generator=draws) < TURNED, any_angle, angles)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    grid = F.affine_grid(torch.stack([cos, sin, zero, -sin, cos, zero], 1).view(-1, 2, 3), list(batch.shape), align_corners=False)
    return F.grid_sample(batch + 1, grid, align_corners=False) - 1


def stills_loss(network: motion_cnn.Network, stills: Dataset) -> Loss:
    """The network's loss of articles in single frames of all sizes, every other one mirrored, turned more than those of the data."""
    attributes: Tensor = stills.attributes  # type: ignore[attr-defined]

    def loss(rows: Tensor, draws: torch.Generator) -> Tensor:
        batch = torch.cat([motion_cnn.centred(stills[int(row)]["pixels"][:, 0, None]) for row in rows])
        return network.article_loss(noisy(turned(mirrored(batch, draws), draws), 0.1, draws), attributes[rows])

    return loss


def clips_loss(network: motion_cnn.Network, clips: Dataset) -> Loss:
    """The network's loss of how clips move, made as they are needed."""
    attributes: Tensor = clips.attributes  # type: ignore[attr-defined]

    def loss(rows: Tensor, draws: torch.Generator) -> Tensor:
        batch = torch.stack([clips[int(row)]["pixels"] for row in rows])
        return network.movement_loss(noisy(batch, 0.1, draws), attributes[rows])

    return loss


@torch.no_grad()
def _found(network: nn.Module, pictures: Tensor) -> list[Tensor]:
    said = [network(part)[1] for part in pictures.split(500)]
    scores = [torch.cat(parts) for parts in zip(*said, strict=True)] if isinstance(said[0], list) else [torch.cat(said)]
    return [score.argmax(1) for score in scores]


def fashion(zoo: Zoo, folder: str | None) -> tuple[nn.Module, str]:
    """Train fashion-cnn on the real training set; say how much of the real test set it finds."""
    place = {"folder": folder} if folder else {}
    train, test = (dataset_of(zoo, {"kind": "fashion-mnist", "split": split, **place}) for split in ("train", "test"))
    network = fashion_cnn.Network()
    fit("fashion-cnn", network, len(train), classifier_loss(network, pictures_of(train), labels_of(train)))
    (found,) = _found(network, pictures_of(test))
    return network, f"{float((found == labels_of(test)).double().mean()):.4f} of the test set's labels found"


def avatar(zoo: Zoo, folder: str | None) -> tuple[nn.Module, str]:
    """Train avatar-cnn on the composed training avatars; say how much of each attribute of the test avatars it finds."""
    train, test = (dataset_of(zoo, {"kind": "avatars", "split": split}) for split in ("train", "test"))
    network = avatar_cnn.Network()
    fit("avatar-cnn", network, len(train), attributes_loss(network, pictures_of(train), train.attributes))  # type: ignore[attr-defined]
    right = (torch.stack(_found(network, pictures_of(test)), 1) == test.attributes).double().mean(0)  # type: ignore[attr-defined]
    values: dict[str, list[str]] = test.values  # type: ignore[attr-defined]
    return network, "found of the test set: " + ", ".join(f"{name} {share:.4f}" for name, share in zip(values, right.tolist(), strict=True))


def motion(zoo: Zoo, folder: str | None) -> tuple[nn.Module, str]:
    """Train motion-cnn on single frames, then how they follow one another, of moving articles of the real training set; say what it
    finds in clips of the real test set's articles.
    """
    place = {"folder": folder} if folder else {}
    articles = {split: {"kind": "fashion-mnist", "split": split, **place} for split in ("train", "test")}
    seen = {"kind": "moving-fashion", "articles": articles["train"], "unsaid": 0}
    stills = dataset_of(zoo, seen | {"count": STILLS, "frames": [1]})
    clips = dataset_of(zoo, seen | {"count": CLIPS, "frames": [8], "heights": [32], "widths": [36]})
    test = dataset_of(zoo, {"kind": "moving-fashion", "articles": articles["test"], "unsaid": 0})
    network = motion_cnn.Network()
    fit("motion-cnn, a frame", network, STILLS, stills_loss(network, stills), epochs=1, bf16=True)
    fit("motion-cnn, movement", network, CLIPS, clips_loss(network, clips), epochs=1, bf16=True)
    right = torch.zeros(len(motion_cnn.VALUES), dtype=torch.double)
    with torch.no_grad():
        for index in range(len(test)):
            scores = network(test[index]["pixels"][None])[2]
            right += torch.tensor([float(score.argmax()) for score in scores]) == test.attributes[index]  # type: ignore[attr-defined]
    shares = (right / len(test)).tolist()
    return network, "found of the test set: " + ", ".join(f"{name} {share:.4f}" for name, share in zip(test.values, shares, strict=True))  # type: ignore[attr-defined]


RECIPES = {"fashion-cnn": fashion, "avatar-cnn": avatar, "motion-cnn": motion}


@click.command()
@click.argument("name", type=click.Choice(sorted(RECIPES)))
@click.option("--out", type=click.Path(path_type=Path), help="Default: NAME.safetensors.")
@click.option("--folder", help="Where the IDX files of Fashion-MNIST are.")
def main(name: str, out: Path | None, folder: str | None) -> None:
    """Train NAME and say what it finds in the test set."""
    out = out or Path(f"{name}.safetensors")
    torch.manual_seed(derived_seed(SEED, name, "init"))
    network, told = RECIPES[name](Zoo.installed(), folder)
    save_weights(network, out)
    click.echo(f"{out}: {told}")


if __name__ == "__main__":
    main()
