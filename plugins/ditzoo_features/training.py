"""The recipe of fashion-cnn: `python -m ditzoo_features.training --out fashion-cnn.safetensors` (about nine minutes on two cores)."""

from __future__ import annotations

from pathlib import Path

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
from ditzoo_features.fashion_cnn import Network

BATCH, EPOCHS, LR, SEED = 128, 10, 4e-3, 0


def pictures_of(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Return all pictures (N, 1, 28, 28) in [-1, 1] and labels (N,)."""
    items = [dataset[index] for index in range(len(dataset))]
    return torch.stack([item["pixels"] for item in items]), torch.tensor([item["item"] for item in items])


def fit(network: nn.Module, pictures: Tensor, labels: Tensor, *, epochs: int = EPOCHS) -> None:
    """Train with every other picture mirrored, AdamW and a one-cycle learning rate; seeded."""
    draws, length = generator(SEED, "fashion-cnn"), len(labels) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * length)
    network.train()
    for step in tqdm(range(epochs * length), desc="fashion-cnn", unit="step", disable=None):
        if step % length == 0:
            order = torch.randperm(len(labels), generator=draws)
        rows = order[step % length * BATCH :][:BATCH]
        batch = torch.where(torch.rand(BATCH, 1, 1, 1, generator=draws) < 0.5, pictures[rows].flip(-1), pictures[rows])
        loss = F.cross_entropy(network(batch)[1], labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


def dataset_of(zoo: Zoo, data: dict[str, str]) -> Dataset:
    """Return the working dataset that data describes."""
    spec = zoo.part("dataset", data)
    assert isinstance(spec, DatasetSpec)
    return spec.build()


@torch.no_grad()
def accuracy(network: Network, pictures: Tensor, labels: Tensor) -> float:
    """Return the share of pictures whose label the network finds."""
    found = torch.cat([network(part)[1].argmax(1) for part in pictures.split(500)])
    return float((found == labels).double().mean())


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("fashion-cnn.safetensors"), show_default=True)
@click.option("--folder", help="Where the IDX files of Fashion-MNIST are.")
def main(out: Path, folder: str | None) -> None:
    """Train fashion-cnn on the real training set and say how much of the real test set it finds."""
    zoo = Zoo.installed()
    place = {"folder": folder} if folder else {}
    train, test = (dataset_of(zoo, {"kind": "fashion-mnist", "split": split, **place}) for split in ("train", "test"))
    torch.manual_seed(derived_seed(SEED, "fashion-cnn", "init"))
    network = Network()
    fit(network, *pictures_of(train))
    save_weights(network, out)
    click.echo(f"{out}: {accuracy(network, *pictures_of(test)):.4f} of the test set's labels found")


if __name__ == "__main__":
    main()
