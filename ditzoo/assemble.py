"""From spec to model: builds the parts, fills in weights, and keeps the spec beside the modules.

A saved model is a folder with `ditzoo.json` (the spec) and `model.safetensors` (backbone and prompt).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ditzoo.files import writable_folder, write_text
from ditzoo.interfaces import Backbone, Cond, Prompt
from ditzoo.model_spec import ModelSpec, Weights
from ditzoo.sources import SPEC_FILE, WEIGHTS_FILE, resolve, weights_path
from ditzoo.weights import load_weights, read_weights, save_weights
from ditzoo.zoo import Zoo


class Model(nn.Module):
    """A backbone and a prompt under one spec. `sample` draws; `spec` says how; schedule and codec are built when used."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.backbone.width
        self.backbone: Backbone = spec.backbone.build(spec.conditioning.build(width))
        self.prompt: Prompt = spec.prompt.build(width)

    def forward(self, x: Tensor, t: Tensor, items: Any) -> Tensor:
        """Return the native prediction at latents x (B, C, *S), model times t (B,) and prompt items."""
        cond: Cond = self.prompt.encode(items)
        return self.backbone(x, t, cond)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def sample(self, *, return_dict: bool = True, **request: Any) -> Any:
        """Draw samples; see `ditzoo.sampling.sample` for the arguments. A tuple of the images where `return_dict` is false."""
        from ditzoo.sampling import sample

        drawn = sample(self, **request)
        return drawn if return_dict else (drawn.images,)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write spec and weights into a folder that `ditzoo.load("local-dir:FOLDER")` opens."""
        folder = writable_folder(Path(folder))
        save_weights(self, folder / WEIGHTS_FILE, dtype=dtype)
        weights = Weights(file=WEIGHTS_FILE, schedule=self.spec.schedule, latent=self.spec.codec.latent())
        spec = self.spec.model_copy(update={"weights": weights})
        write_text(folder / SPEC_FILE, spec.model_dump_json(indent=2) + "\n")


def build(spec: ModelSpec, *, seed: int | None = 0, device: str | torch.device = "cpu") -> Model:
    """Build a model with fresh weights, initialised from `seed` without touching torch's own generators."""
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        with torch.device(device):
            return Model(spec).eval()


def build_meta(spec: ModelSpec) -> Model:
    """Build a model without memory for its weights: shapes only."""
    with torch.device("meta"):
        return Model(spec).eval()


def load(
    name: str,
    *,
    zoo: Zoo | None = None,
    settings: Iterable[str] = (),
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Model:
    """Load a model with its weights by catalogue name, alias, or `local-dir:PATH`.

    `settings` are `path.to.field=value` laid over the spec; they are checked before any weight is read. Weights come
    in fp32 unless `dtype` says otherwise. Raises `SpecError`, `UnknownNameError` or `CheckpointError`.
    """
    spec, folder = resolve(name, zoo or Zoo.installed(), settings)
    return load_spec(spec, folder, dtype=dtype, device=device)


def load_spec(spec: ModelSpec, folder: Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Model:
    """Load the model of a spec whose weights file lies in `folder`."""
    path = weights_path(spec, folder)
    tensors = read_weights(path, sha256=spec.weights.sha256 if spec.weights else None)
    model = build_meta(spec)
    load_weights(model, tensors, source=str(path), dtype=dtype or torch.float32, device=device)
    return model.to(device).eval().requires_grad_(False)
