"""The card of a saved model: a README.md that the hub shows, with licence, usage line, numbers and a grid. No torch."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from ditzoo.files import replacing, write_text
from ditzoo.model_spec import ModelSpec
from ditzoo.specs import shape

CARD_FILE, GRID_FILE = "README.md", "grid.png"
PIPELINE_TAGS = {None: "unconditional-image-generation", "prompt": "text-to-image"}
# The hub's identifiers of licences; a licence that is none of them is told as it is.
LICENCES = ("apache-2.0", "mit", "cc-by-nc-4.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "openrail", "bsd-3-clause")


def write_card(spec: ModelSpec, folder: Path, *, grid: Path | None = None, repo: str | None = None) -> None:
    """Write the card into a saved model's folder; a grid is copied beside it, and one that lies there already is kept."""
    if grid is not None and grid.resolve() != (folder / GRID_FILE).resolve():
        with replacing(folder / GRID_FILE) as aside:
            shutil.copyfile(grid, aside)
    write_text(folder / CARD_FILE, card_text(spec, folder, repo=repo))


def card_text(spec: ModelSpec, folder: Path, *, repo: str | None = None) -> str:
    """Return the card: front matter for the hub, then what `ditzoo show` tells."""
    from huggingface_hub import ModelCardData

    from ditzoo.cards import figures_of, megabytes

    found = figures_of(spec, folder)
    source = f"hf-hub:{repo}" if repo else "local-dir:."
    identifier = licence_id(spec.card.license)
    front = ModelCardData(
        library_name="ditzoo",
        tags=["ditzoo", "diffusion-transformer", spec.backbone.kind],
        pipeline_tag=PIPELINE_TAGS.get(spec.prompt.argument),
        license=identifier,
        license_name=spec.card.license if identifier == "other" else None,
    )
    lines = ["---", front.to_yaml(), "---", "", f"# {spec.name}", ""]
    if spec.card.summary:
        lines += [f"{spec.card.summary[0].upper()}{spec.card.summary[1:]}.", ""]
    if (folder / GRID_FILE).is_file():
        lines += [f"![samples of {spec.name}]({GRID_FILE})", ""]
    asked = {"class_labels": "class_labels=[0, 1], ", "prompt": 'prompt="...", '}.get(spec.prompt.argument or "", "")
    lines += [
        "```python" if repo else "In this folder:\n\n```python",
        "import ditzoo",
        "",
        f'model = ditzoo.load("{source}")',
        f"model.sample({asked}num_inference_steps={spec.sampling.steps}, guidance_scale={spec.guidance.scale:g}).images[0]",
        "```",
        "",
        f"On the command line: `ditzoo sample {source}`.",
        "",
        "| | |",
        "| --- | --- |",
        f"| parameters | {found.parameters / 1e6:,.2f} M ({megabytes(found.weight_bytes)} in fp32) |",
        f"| multiply-adds | {found.macs / 1e9:,.2f} G a forward pass of one sample |",
        f"| samples | {shape(spec.pixel_size())} pixels, latent {shape((spec.backbone.in_channels, *spec.latent_size()))} |",
        *(f"| {slot} | {_told(part)} |" for slot, part in spec.parts.items()),
    ]
    for title in ("published", "measured"):
        figures = getattr(spec.card, title)
        if figures:
            lines += ["", f"## {title.capitalize()}", "", *(f"- {name}: {value}" for name, value in figures.items())]
    for title, text in (
        ("Data", spec.card.data),
        ("Training", spec.card.training),
        ("Licence", spec.card.license),
        ("Paper", spec.card.paper),
    ):
        if text:
            lines += ["", f"## {title}", "", text]
    if spec.card.notes:
        lines += ["", spec.card.notes]
    return "\n".join(lines) + "\n"


def licence_id(text: str) -> str | None:
    """Return the hub's identifier of a licence: the one that the text names, `other` for another text, None for none."""
    if not text:
        return None
    return next((word for word in LICENCES if re.search(rf"\b{re.escape(word)}\b", text.lower())), "other")


def _told(part: Any) -> str:
    fields = part.model_dump(mode="json", exclude_none=True, exclude={"kind", "names"})
    return f"{part.kind} " + " ".join(f"{name}={shape(value) if isinstance(value, list) else value}" for name, value in fields.items())
