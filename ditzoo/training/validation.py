"""Loss on pictures that are not trained on, by noise level: with the same noise each time, so that only the weights differ."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch

from ditzoo.assemble import Model
from ditzoo.files import write_text
from ditzoo.interfaces import Codec, Dataset, Schedule
from ditzoo.noise import generator
from ditzoo.training.loss import Draws, diffusion_loss
from ditzoo.training.tables import Validation

BATCH = 128


@torch.no_grad()
def by_level(model: Model, codec: Codec, schedule: Schedule, dataset: Dataset, settings: Validation, seed: int) -> list[float]:
    """Return the mean loss in each of `settings.bins` equal parts of t, data first; every part sees as many pictures."""
    count = min(settings.items, len(dataset)) // settings.bins * settings.bins
    rows = torch.linspace(0, len(dataset) - 1, count).round().long().tolist()
    device, sums = model.device, torch.zeros(settings.bins, dtype=torch.float64)
    whole = torch.rand(count, generator=generator(seed, "validation"), dtype=torch.float64)
    times = (torch.arange(count) % settings.bins + whole) / settings.bins
    for first in range(0, count, BATCH):
        items = [dataset[row] for row in rows[first : first + BATCH]]
        if getattr(dataset, "coded", False):
            latents = torch.stack([item["latents"] for item in items]).to(device)
        else:
            latents = codec.encode(torch.stack([item["pixels"] for item in items]).to(device))
        noise = torch.randn(latents.shape, generator=generator(seed, "validation", first)).to(latents)
        t = times[first : first + BATCH]
        draws = Draws(noise, t, torch.ones(len(items), dtype=torch.float64))  # no label is dropped
        loss = diffusion_loss(model, lambda x, t, asked, *_: model(x, t, asked), schedule, latents, [item["item"] for item in items], draws)
        sums.index_add_(0, (t * settings.bins).long().clamp(max=settings.bins - 1), loss.double().cpu())
    return (sums / (count // settings.bins)).tolist()


def note(path: Path, step: int, losses: list[float]) -> None:
    """Add a row to validation.csv; rows at or after this step, of a run that was cut off, are dropped."""
    names = ["step", "loss", *(f"t_{i / len(losses):.3g}_to_{(i + 1) / len(losses):.3g}" for i in range(len(losses)))]
    kept: list[list[str]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [row for row in list(csv.reader(file))[1:] if len(row) == len(names) and int(row[0]) < step]
    text = io.StringIO()
    row = [str(step), *(f"{value:.6g}" for value in (sum(losses) / len(losses), *losses))]
    csv.writer(text).writerows([names, *kept, row])
    write_text(path, text.getvalue())
