"""Does a model draw what it is asked for? The share of samples that a classifier gives the label they were asked with.

    python benchmarks/label_agreement.py fashion-dit --count 2000

The classifier is a small CNN trained here on the real training set of Fashion-MNIST (a few minutes on two cores; kept in
--cache) and tested on the real test set; a model is not judged by a classifier below 92 %. Prints JSON.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

import ditzoo
from ditzoo.zoo import Zoo

BATCH, EPOCHS, LR, FLOOR = 128, 8, 4e-3, 0.92


def classifier() -> nn.Sequential:
    """Three 3x3 convolutions with batch norm and pooling, two linear layers; 10 classes of 28x28 grey pictures."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 96)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(96 * 9, 128), nn.ReLU(), nn.Linear(128, 10))


def load_split(split: str) -> tuple[Tensor, Tensor]:
    """Return pictures (N, 1, 28, 28) in [-1, 1] and labels (N,)."""
    data = Zoo.installed().part("dataset", {"kind": "fashion-mnist", "split": split}).build()
    return data.images[:, None].float() / 127.5 - 1, data.labels.long()


def train(network: nn.Module, pictures: Tensor, labels: Tensor) -> None:
    """Train with mirrored pictures mixed in and a one-cycle learning rate, seeded."""
    generator = torch.Generator().manual_seed(0)
    steps = EPOCHS * (len(labels) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    network.train()
    for step in tqdm(range(steps), desc="classifier", disable=None):
        place = step % (len(labels) // BATCH)
        if place == 0:
            order = torch.randperm(len(labels), generator=generator)
        rows = order[place * BATCH : (place + 1) * BATCH]
        mirrored = torch.rand(BATCH, 1, 1, 1, generator=generator) < 0.5
        batch = torch.where(mirrored, pictures[rows].flip(-1), pictures[rows])
        loss = F.cross_entropy(network(batch), labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def predict(network: nn.Module, pictures: Tensor) -> Tensor:
    return torch.cat([network(part).argmax(1) for part in pictures.split(500)])


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z, p = 1.96, hits / count
    centre, half = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return (centre - half) / (1 + z * z / count), (centre + half) / (1 + z * z / count)


@click.command()
@click.argument("model")
@click.option("--count", default=2000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--guidance-scale", type=float)
@click.option("--steps", type=int)
@click.option("--set", "settings", multiple=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/label-agreement.safetensors"), show_default=True)
def main(
    model: str, count: int, seed: int, guidance_scale: float | None, steps: int | None, settings: tuple[str, ...], cache: Path
) -> None:
    """Measure MODEL, a name or local-dir:PATH of a model of Fashion-MNIST's ten classes."""
    torch.manual_seed(0)
    network = classifier()
    if cache.is_file():
        network.load_state_dict(load_file(cache))
        network.eval()
    else:
        train(network, *load_split("train"))
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), cache)
    pictures, labels = load_split("test")
    accuracy = float((predict(network, pictures) == labels).float().mean())
    if accuracy < FLOOR:
        raise click.ClickException(f"the classifier's test accuracy is {accuracy:.4f}, below {FLOOR}; remove {cache} and train it anew")
    loaded = ditzoo.load(model, settings=settings)
    drawn = loaded.sample(
        num_images=count, seed=seed, batch_size=100, guidance_scale=guidance_scale, num_inference_steps=steps, output_type="pt"
    )
    asked = torch.tensor(drawn.items)
    right = predict(network, drawn.images * 2 - 1) == asked
    names = loaded.spec.prompt.caption
    report = {
        "model": model,
        "classifier_test_accuracy": round(accuracy, 4),
        "samples": count,
        "seed": seed,
        "sampler": loaded.spec.sampler.model_dump(),
        "steps": steps or loaded.spec.sampling.steps,
        "guidance_scale": loaded.spec.guidance.scale if guidance_scale is None else guidance_scale,
        "agreement": round(float(right.float().mean()), 4),
        "interval_95": [round(bound, 4) for bound in wilson(int(right.sum()), count)],
        "by_class": {names(label): round(float(right[asked == label].float().mean()), 3) for label in sorted(set(drawn.items))},
    }
    click.echo(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
