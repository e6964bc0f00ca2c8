"""The recipes of the small networks that ship here.

python -m ditzoo_features.training fashion-cnn                              # about nine minutes on two cores
python -m ditzoo_features.training avatar-cnn                               # about four
python -m ditzoo_features.training motion-cnn                               # reckoned at about two hours
python -m ditzoo_features.training motion-cnn --device cuda --workers 4     # as it was trained: six minutes on an H200
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ditzoo.interfaces import Dataset
from ditzoo.noise import derived_seed, generator
from ditzoo.specs import DatasetSpec
from ditzoo.weights import save_weights
from ditzoo.zoo import Zoo
from ditzoo_features import avatar_cnn, fashion_cnn, motion_cnn

BATCH, EPOCHS, LR, SEED = 128, 10, 4e-3, 0
STILLS, CLIPS = 600_000, 120_000  # each other than the rest: ten frames of every article for what it is, two clips for how it moves
TIMES = 5  # that each still is seen
LEAN, TURNED = math.radians(6), 0.1  # of stills: how far they lean, one standard deviation, and the share that is turned by any angle
Read = Callable[[Tensor], tuple[Tensor, Tensor]]  # numbers of items to their pixels and what is wanted of them
Loss = Callable[[Tensor, Tensor, torch.Generator], Tensor]  # of pixels, what is wanted of them, and what draws


class Place(NamedTuple):
    """Where a network is trained, and how many processes read for it."""

    device: str = "cpu"
    workers: int = 0

    def read(self, read: Read, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of such items, on the device."""
        loader: Any = DataLoader(cast(Any, _Reading(read)), batch_size=None, sampler=cast(Any, order), num_workers=self.workers)
        for pixels, wanted in loader:
            yield pixels.to(self.device), wanted.to(self.device)


class _Reading:
    """A dataset of batches for a loader whose sampler gives their numbers."""

    def __init__(self, read: Read) -> None:
        self.read = read

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.read(rows)


def fit(
    name: str, network: nn.Module, count: int, read: Read, loss_of: Loss, place: Place, *, epochs: int = EPOCHS, bf16: bool = False
) -> None:
    """Train on `count` items with AdamW and a one-cycle learning rate; seeded by the name. `bf16` runs products in bfloat16."""
    draws, length = generator(SEED, name), count // BATCH
    network.to(place.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * length)
    with tqdm(total=epochs * length, desc=name, unit="step", disable=None) as bar:
        for _ in range(epochs):
            order = torch.randperm(count, generator=draws)[: length * BATCH].split(BATCH)
            for pixels, wanted in place.read(read, order):
                with torch.autocast(place.device, torch.bfloat16, enabled=bf16):
                    loss = loss_of(pixels, wanted, draws)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
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
    return torch.where(coins.to(batch.device) < 0.5, batch.flip(-1), batch)


def noisy(batch: Tensor, level: float, draws: torch.Generator) -> Tensor:
    """Put a little noise over pictures or clips, up to a level: what a model draws is not as clean as what was composed."""
    levels = torch.rand(len(batch), *[1] * (batch.dim() - 1), generator=draws) * level
    return batch + (levels * torch.randn(batch.shape, generator=draws)).to(batch.device)


def held(pictures: Tensor, wanted: Tensor) -> Read:
    """Read pictures that are in memory."""
    return lambda rows: (pictures[rows], wanted[rows])


def classifier_loss(network: nn.Module) -> Loss:
    """Cross-entropy of the class, every other picture mirrored."""

    def loss(pictures: Tensor, labels: Tensor, draws: torch.Generator) -> Tensor:
        return F.cross_entropy(network(mirrored(pictures, draws))[1], labels, label_smoothing=0.05)

    return loss


def attributes_loss(network: nn.Module) -> Loss:
    """Cross-entropy of each attribute, under a little noise."""

    def loss(pictures: Tensor, attributes: Tensor, draws: torch.Generator) -> Tensor:
        scores = network(noisy(pictures, 0.15, draws))[1]
        return torch.stack([F.cross_entropy(score, attributes[:, i]) for i, score in enumerate(scores)]).mean()

    return loss


def turned(batch: Tensor, draws: torch.Generator) -> Tensor:
    """Turn pictures (B, C, H, W) that are -1 around what they show: all a little, some by any angle."""
    angles = LEAN * torch.randn(len(batch), generator=draws)
    any_angle = 2 * math.pi * torch.rand(len(batch), generator=draws)
    angles = torch.where(torch.rand(len(batch), generator=draws) < TURNED, any_angle, angles)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    turns = torch.stack([cos, sin, zero, -sin, cos, zero], 1).view(-1, 2, 3).to(batch.device)
    grid = F.affine_grid(turns, list(batch.shape), align_corners=False)
    return F.grid_sample(batch + 1, grid, align_corners=False) - 1


def stills_of(clips: Dataset) -> Read:
    """Read the first frames of clips of all sizes, as they are looked at."""
    attributes: Tensor = clips.attributes  # type: ignore[attr-defined]
    return lambda rows: (torch.cat([motion_cnn.centred(clips[int(row)]["pixels"][:, 0, None]) for row in rows]), attributes[rows])


def clips_of(clips: Dataset) -> Read:
    """Read clips of one size."""
    attributes: Tensor = clips.attributes  # type: ignore[attr-defined]
    return lambda rows: (torch.stack([clips[int(row)]["pixels"] for row in rows]), attributes[rows])


def stills_loss(network: motion_cnn.Network) -> Loss:
    """The network's loss of articles in single frames, every other one mirrored, turned more than those of the data."""
    return lambda stills, wanted, draws: network.article_loss(noisy(turned(mirrored(stills, draws), draws), 0.1, draws), wanted)


def clips_loss(network: motion_cnn.Network) -> Loss:
    """The network's loss of how clips move."""
    return lambda clips, wanted, draws: network.movement_loss(noisy(clips, 0.1, draws), wanted)


@torch.no_grad()
def _found(network: nn.Module, pictures: Tensor) -> list[Tensor]:
    network.cpu()
    said = [network(part)[1] for part in pictures.split(500)]
    scores = [torch.cat(parts) for parts in zip(*said, strict=True)] if isinstance(said[0], list) else [torch.cat(said)]
    return [score.argmax(1) for score in scores]


def fashion(zoo: Zoo, folder: str | None, place: Place) -> tuple[nn.Module, str]:
    """Train fashion-cnn on the real training set; say how much of the real test set it finds."""
    files = {"folder": folder} if folder else {}
    train, test = (dataset_of(zoo, {"kind": "fashion-mnist", "split": split, **files}) for split in ("train", "test"))
    network = fashion_cnn.Network()
    fit("fashion-cnn", network, len(train), held(pictures_of(train), labels_of(train)), classifier_loss(network), place)
    (found,) = _found(network, pictures_of(test))
    return network, f"{float((found == labels_of(test)).double().mean()):.4f} of the test set's labels found"


def avatar(zoo: Zoo, folder: str | None, place: Place) -> tuple[nn.Module, str]:
    """Train avatar-cnn on the composed training avatars; say how much of each attribute of the test avatars it finds."""
    train, test = (dataset_of(zoo, {"kind": "avatars", "split": split}) for split in ("train", "test"))
    network = avatar_cnn.Network()
    read = held(pictures_of(train), train.attributes)  # type: ignore[attr-defined]
    fit("avatar-cnn", network, len(train), read, attributes_loss(network), place)
    right = (torch.stack(_found(network, pictures_of(test)), 1) == test.attributes).double().mean(0)  # type: ignore[attr-defined]
    values: dict[str, list[str]] = test.values  # type: ignore[attr-defined]
    return network, "found of the test set: " + ", ".join(f"{name} {share:.4f}" for name, share in zip(values, right.tolist(), strict=True))


def motion(zoo: Zoo, folder: str | None, place: Place) -> tuple[nn.Module, str]:
    """Train motion-cnn on single frames, then how they follow one another, of moving articles of the real training set; say what it
    finds in clips of the real test set's articles.
    """
    files = {"folder": folder} if folder else {}
    articles = {split: {"kind": "fashion-mnist", "split": split, **files} for split in ("train", "test")}
    seen = {"kind": "moving-fashion", "articles": articles["train"], "unsaid": 0}
    stills = dataset_of(zoo, seen | {"count": STILLS, "frames": [1]})
    clips = dataset_of(zoo, seen | {"count": CLIPS, "frames": [8], "heights": [32], "widths": [36]})
    test = dataset_of(zoo, {"kind": "moving-fashion", "articles": articles["test"], "unsaid": 0})
    network = motion_cnn.Network()
    fit("motion-cnn, a frame", network, STILLS, stills_of(stills), stills_loss(network), place, epochs=TIMES, bf16=True)
    fit("motion-cnn, movement", network, CLIPS, clips_of(clips), clips_loss(network), place, epochs=1, bf16=True)
    right = torch.zeros(len(motion_cnn.VALUES), dtype=torch.double)
    with torch.no_grad():
        for clip, wanted in place.read(clips_of(test), torch.arange(len(test)).split(1)):  # of many sizes
            right += torch.stack([score.argmax(1) for score in network(clip)[2]], 1).eq(wanted)[0].cpu()
    shares = (right / len(test)).tolist()
    return network, "found of the test set: " + ", ".join(f"{name} {share:.4f}" for name, share in zip(test.values, shares, strict=True))  # type: ignore[attr-defined]


RECIPES = {"fashion-cnn": fashion, "avatar-cnn": avatar, "motion-cnn": motion}


@click.command()
@click.argument("name", type=click.Choice(sorted(RECIPES)))
@click.option("--out", type=click.Path(path_type=Path), help="Default: NAME.safetensors.")
@click.option("--folder", help="Where the IDX files of Fashion-MNIST are.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--workers", type=int, default=0, show_default=True, help="Processes that read.")
def main(name: str, out: Path | None, folder: str | None, device: str, workers: int) -> None:
    """Train NAME and say what it finds in the test set."""
    out = out or Path(f"{name}.safetensors")
    torch.manual_seed(derived_seed(SEED, name, "init"))
    network, told = RECIPES[name](Zoo.installed(), folder, Place(device, workers))
    save_weights(network.cpu(), out)
    click.echo(f"{out}: {told}")


if __name__ == "__main__":
    main()
