"""From spec to model: builds the parts, fills in weights, and keeps the spec beside the modules.

A saved model is a folder with `ditzoo.json` (the spec), `model.safetensors` or shards of it (backbone and prompt), and a card.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ditzoo.checkpoints import open_checkpoint
from ditzoo.errors import CheckpointError, OutputError, SpecError, listed, suggest
from ditzoo.files import writable_folder, write_text
from ditzoo.hub_errors import Access
from ditzoo.interfaces import Backbone, Cond, Prompt, Runtime
from ditzoo.lora import Adapted, held_by
from ditzoo.model_spec import ModelSpec, Weights
from ditzoo.places import file_sha256
from ditzoo.repositories import SPEC_FILE
from ditzoo.sources import WEIGHTS_FILE, Found, resolve
from ditzoo.specs import RuntimeSpec
from ditzoo.views import standing
from ditzoo.weights import fill, save_weights
from ditzoo.zoo import Zoo


@dataclass
class Prepared:
    """A backbone as a runtime has prepared it, and what it was made of."""

    backbone: Backbone | None = None
    of: object = None


class Model(Adapted):
    """A backbone and a prompt under one spec. `sample` draws; `spec` says how; schedule and codec are built when used."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.adapters = {}
        width = spec.backbone.width
        self.backbone: Backbone = spec.backbone.build(spec.conditioning.build(width))
        if spec.exits is not None:
            self.backbone.given_exits = spec.exits.build(self.backbone, width)
        self.prompt: Prompt = spec.prompt.build(width)
        self.runtime: Runtime | None = spec.runtime.build() if spec.runtime is not None else None
        self._prepared = Prepared()

    def forward(self, x: Tensor, t: Tensor, items: Any) -> Tensor:
        """Return the native prediction at latents x (B, C, *S), model times t (B,) and prompt items."""
        cond: Cond = self.prompt.encode(items)
        prediction: Tensor = self.runner(x, t, cond)
        return prediction

    @property
    def runner(self) -> Backbone:
        """The backbone as it runs: without gradients as the runtime prepares it, anew where it has changed since; else the plain one."""
        if self.runtime is None or torch.is_grad_enabled():
            return self.backbone
        held, now = self._prepared, (self.runtime, standing(self.backbone))
        if held.backbone is None or held.of != now:
            held.backbone = None  # what it held is free before the next is made
            held.backbone, held.of = self.runtime.prepare(self.backbone), now
        return held.backbone

    def prepare(self) -> Model:
        """Have the runtime prepare the backbone now, and measure what it measures, rather than at the first picture; return self."""
        with torch.no_grad():
            assert isinstance(self.runner, Backbone)
        return self

    def under(self, spec: ModelSpec) -> Model:
        """Return the same parts and weights under another spec of theirs, such as one with another sampler; what the runtime prepares
        is shared.
        """
        own = copy.copy(self)
        own.spec, own._prepared = spec, self._prepared
        return own

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": Prepared()}  # copies prepare their own

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def sample(self, *, return_dict: bool = True, **request: Any) -> Any:
        """Draw samples; see `ditzoo.sampling.sample` for the arguments, and `sample_windows` for clips drawn by a `window`.

        A tuple of the images where `return_dict` is false.
        """
        from ditzoo.sampling import sample
        from ditzoo.windows import sample_windows

        request = {name: value for name, value in request.items() if name not in ("window", "overlap") or value is not None}
        drawn = sample_windows(self, **request) if "window" in request else sample(self, **request)
        return drawn if return_dict else (drawn.images,)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        max_shard_size: int | str | None = "5GB",
        grid: Path | None = None,
    ) -> None:
        """Write spec, weights and model card into a folder that `ditzoo.load("local-dir:FOLDER")` opens.

        Floating weights are cast to `dtype`; above `max_shard_size` they go into several files. `grid` is a picture for the card.
        """
        save(self, self.spec, Path(folder), dtype=dtype, max_shard_size=max_shard_size, grid=grid)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save and upload; see `ditzoo.publishing.push` for the options. Returns the address of the commit."""
        from ditzoo.publishing import push

        return push(self, repo_id, **options)


def save(
    model: Model,
    spec: ModelSpec,
    folder: Path,
    *,
    dtype: torch.dtype | str | None = None,
    max_shard_size: int | str | None = "5GB",
    grid: Path | None = None,
    repo: str | None = None,
) -> None:
    """Write a model under a spec into a folder: weights, spec, what its parts need, and a card that speaks of `repo`."""
    from ditzoo.model_card import write_card

    if held := held_by(model):
        raise OutputError(
            f"'{spec.name}' carries the adapters {listed(held)}; fuse_lora() adds them to its weights, unload_lora_weights() takes them "
            f"out, and save_lora_weights() writes one alone"
        )
    writable_folder(folder)
    written = save_weights(model, folder / WEIGHTS_FILE, dtype=as_dtype(dtype), max_shard_size=max_shard_size)
    trained = spec.weights.schedule if spec.weights else spec.schedule
    weights = Weights(file=written[-1].name, schedule=trained, latent=spec.codec.latent())
    packed = {name: part.packed(folder) for name, part in spec.parts.items()}
    spec = spec.model_copy(update={"weights": weights} | packed | {"runtime": None})
    write_text(folder / SPEC_FILE, spec.model_dump_json(indent=2) + "\n")
    write_card(spec, folder, grid=grid, repo=repo)


def build(spec: ModelSpec, *, seed: int | None = 0, device: str | torch.device = "cpu") -> Model:
    """Build a model with fresh weights, initialised from `seed` without touching torch's own generators."""
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        with torch.device(device):
            return Model(spec).eval()


def build_meta(spec: ModelSpec) -> Model:
    """Build a model without memory for its weights: shapes only."""
    with torch.device("meta"), NoFills():
        return Model(spec).eval()


class NoFills(TorchFunctionMode):
    """Leaves out random fills of meta tensors: there is nothing to fill, and torch imports its compiler (2 s) to do it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {**(kwargs or {}), **({"tensor": args[0]} if args else {})}
        tensor = given.get("tensor", given.get("self"))
        if func.__name__ in ("normal_", "uniform_", "trunc_normal_") and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **(kwargs or {}))


def load(
    name: str,
    *,
    zoo: Zoo | None = None,
    settings: Iterable[str] = (),
    runtime: RuntimeSpec | Mapping[str, Any] | str | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    lock: str | Path | None = None,
    torch_dtype: torch.dtype | str | None = None,
    **unknown: Any,
) -> Model:
    """Load a model with its weights.

    Args:
        name: a catalogue name or alias, `hf-hub:OWNER/REPO[@REVISION]`, `local-dir:FOLDER`, `local-file:CHECKPOINT` or `SPEC.toml`.
        settings: `path.to.field=value` laid over the spec; checked before any weight is read or fetched.
        runtime: how it is prepared to run, a kind or a part; where None the spec's, or what is measured to be fast here.
        dtype: what floating weights are cast to (fp32 if None); `"keep"` leaves them as the file has them. `torch_dtype` is the same.
        device: where they go.
        revision, token, cache_dir, local_files_only: as in `from_pretrained`.
        lock: a file that `ditzoo lock` wrote; anything that is not what it says is refused.

    Returns:
        `Model` in eval mode, without gradients.

    Raises:
        SpecError, UnknownNameError: the name or the composition is wrong.
        HubError: a repository cannot be had.
        CheckpointError: the weights are missing, damaged or of another model.
        LockError: something is not what the lock says.
    """
    for word in unknown:
        options = ("settings", "runtime", "dtype", "device", "revision", "token", "cache_dir", "local_files_only", "lock")
        raise SpecError(f"load takes no argument '{word}'{suggest(word, options)}")
    access = Access(token, cache_dir, local_files_only)
    found = resolve(name, zoo or Zoo.installed(), settings, access=access, revision=revision)
    if lock is not None:
        from ditzoo.locks import hold

        found = hold(found, Path(lock))
    if runtime is not None:
        found = found.under(runtime)
    return load_found(found, dtype=dtype if dtype is not None else torch_dtype, device=device)


def load_found(found: Found, *, dtype: torch.dtype | str | None = None, device: str | torch.device = "cpu") -> Model:
    """Load the model that a name was resolved to, under its runtime or else the default one."""
    found = found.opened()
    spec, files = found.spec, found.weights()
    assert spec.weights is not None, "opened() looks"
    if spec.weights.sha256 is not None:
        if len(files.names) > 1:
            raise SpecError(
                f"weights.sha256 is of one file, and {files} are {len(files.names)} shards; a lock holds them all ('ditzoo lock')"
            )
        (path,) = files.fetch()
        if (is_now := file_sha256(path)) != spec.weights.sha256:
            raise CheckpointError(f"{path}: sha256 is {is_now}, and the spec says {spec.weights.sha256}; fetch the file again")
    checkpoint = open_checkpoint(files, entry=spec.weights.entry)
    model = build_meta(spec)
    cast = None if dtype == "keep" else as_dtype(dtype) or torch.float32
    layout = found.zoo.layout(spec.weights.layout)
    fill(model, checkpoint, spec, layout, layouts=found.zoo.layouts.values(), dtype=cast, device=device)
    model.runtime = runtime_of(spec, found.zoo)
    return model.to(device).eval().requires_grad_(False)


def runtime_of(spec: ModelSpec, zoo: Zoo) -> Runtime | None:
    """Return the runtime that a spec names, or else the default of a zoo; None where neither is."""
    declared = spec.runtime or zoo.default_runtime()
    return None if declared is None else declared.build()


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Read a dtype as people write it: `torch.bfloat16`, `"bfloat16"`."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise SpecError(f"no floating dtype '{dtype}'{suggest(dtype, ('float32', 'bfloat16', 'float16', 'float64'))}")
    return found
