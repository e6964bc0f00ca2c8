"""LoRA adapters (Hu et al. 2021) of a model, by peft: put in, loaded, weighed, merged and taken out again. Names are diffusers' own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ditzoo.errors import CheckpointError, SpecError, listed, suggest
from ditzoo.hub import Repository, parse
from ditzoo.hub_errors import Access
from ditzoo.lora_files import FILE, Delta, names_of, read_lora, write_lora
from ditzoo.places import Folder, Place
from ditzoo.zoo import Zoo

if TYPE_CHECKING:
    from ditzoo.assemble import Model


class Adapted(nn.Module):
    """A module whose linear layers may carry LoRA adapters. `adapters` are those that act, with the weight of each."""

    adapters: dict[str, float]

    def load_lora_weights(
        self,
        source: str | Path,
        *,
        weight_name: str | None = None,
        adapter_name: str | None = None,
        scale: float = 1.0,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        zoo: Zoo | None = None,
    ) -> str:
        """Load an adapter in diffusers' format, have it act beside those that do, and return its name.

        Args:
            source: a file, a folder, or a repository: `owner/repo` or `hf-hub:owner/repo[@revision]`.
            weight_name: the file there, if it is not `pytorch_lora_weights.safetensors` or the only one.
            adapter_name: how to speak of it; `default_N` if None.
            scale: what it is multiplied by.
            revision, token, cache_dir, local_files_only: as in `from_pretrained`.

        Raises:
            CheckpointError: it is no LoRA, or one of another architecture; key and shapes are told, and nothing is changed.
            HubError: a repository cannot be had.
        """
        model = cast("Model", self)
        held = held_by(model)
        name = adapter_name
        if name is None:
            name = next(f"default_{i}" for i in range(len(held) + 1) if f"default_{i}" not in held)
        if name in held:
            raise SpecError(f"adapter_name '{name}' is loaded already; unload it, or choose another")
        if not name or "." in name:
            raise SpecError(f"adapter_name '{name}' is empty or has a dot; choose another")
        path = fetched(source, weight_name, revision, Access(token, cache_dir, local_files_only))
        deltas = read_lora(path, names_of(model, model.spec, zoo or Zoo.installed()), model.spec.name)
        ranks = {layer: len(delta.down) for layer, delta in deltas.items()}
        inject(model, name, ranks, {layer: delta.alpha for layer, delta in deltas.items()}, train=False)
        layers = dict(tuned(model))
        with torch.no_grad():
            for layer, delta in deltas.items():
                layers[layer].lora_A[name].weight.copy_(delta.down)
                layers[layer].lora_B[name].weight.copy_(delta.up)
        self.set_adapters([*self.adapters, name], [*self.adapters.values(), scale])
        return name

    def set_adapters(self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None) -> None:
        """Have these adapters act and no others, each times its weight (1 if None)."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if not isinstance(adapter_weights, Sequence):
            adapter_weights = [1.0 if adapter_weights is None else adapter_weights] * len(names)
        weights = [float(weight) for weight in adapter_weights]
        if len(weights) != len(names):
            raise SpecError(f"{len(weights)} weights for {len(names)} adapters; give one each, or a single one")
        known = held_by(self)
        for name in names:
            if name not in known:
                raise SpecError(f"no adapter '{name}'{suggest(name, known)} (loaded: {listed(known)})")
        for _, layer in tuned(self):
            layer.set_adapter(names)
            for name, weight in zip(names, weights, strict=True):
                layer.set_scale(name, weight)
            for pairs in (layer.lora_A, layer.lora_B):
                pairs.requires_grad_(False)  # peft would train what acts
        self.adapters = dict(zip(names, weights, strict=True))

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Let go of adapters; the others stay as they are."""
        names = {adapter_names} if isinstance(adapter_names, str) else set(adapter_names)
        kept = {name: weight for name, weight in self.adapters.items() if name not in names}
        self.set_adapters(list(kept), list(kept.values()))
        for _, layer in tuned(self):
            for name in names & layer.lora_A.keys():
                layer.delete_adapter(name)
        if not held_by(self):
            self.unload_lora_weights()

    def unload_lora_weights(self) -> None:
        """Take all adapters out: the model is what it was before."""
        for name, layer in list(tuned(self)):
            parent, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(parent), leaf, layer.base_layer)
        self.adapters = {}
        self.__dict__.pop("peft_config", None)

    def fuse_lora(self) -> None:
        """Add the adapters that act to the weights and take them out: no cost is left, and no way back."""
        for _, layer in tuned(self):
            layer.merge(adapter_names=[name for name in self.adapters if name in layer.lora_A])
        self.unload_lora_weights()

    def save_lora_weights(self, folder: str | Path, *, adapter_name: str | None = None, zoo: Zoo | None = None) -> Path:
        """Write an adapter, the only one if None, as `pytorch_lora_weights.safetensors` that diffusers loads too; return the file."""
        model, held = cast("Model", self), held_by(self)
        if adapter_name is None and len(held) == 1:
            (adapter_name,) = held
        if adapter_name not in held:
            raise SpecError(f"no adapter '{adapter_name}' to save (loaded: {listed(held)}); name one with adapter_name")
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        deltas = {name: _delta_of(layer, adapter_name) for name, layer in tuned(self) if adapter_name in layer.lora_A}
        write_lora(path, deltas, names_of(model, model.spec, zoo or Zoo.installed()))
        return path


def _delta_of(layer: Any, adapter: str) -> Delta:
    return Delta(layer.lora_A[adapter].weight.detach(), layer.lora_B[adapter].weight.detach(), layer.lora_alpha[adapter])


def tuned(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers that carry adapters, by name."""
    for name, layer in module.named_modules():
        if hasattr(layer, "lora_A") and hasattr(layer, "base_layer"):
            yield name, layer


def held_by(module: nn.Module) -> list[str]:
    """Return the names of the adapters that a model carries, those that do not act too."""
    return list(dict.fromkeys(name for _, layer in tuned(module) for name in layer.lora_A))


def inject(
    model: nn.Module, name: str, ranks: Mapping[str, int], alphas: Mapping[str, float], *, train: bool, dropout: float = 0.0
) -> None:
    """Put an adapter of these ranks and alphas, by the names of layers, into a model by peft; it begins as nothing."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise CheckpointError(f"LoRA needs peft; install it with pip install 'ditzoo[lora]' ({error})") from error
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(ranks),
        rank_pattern={f"^{layer}": own for layer, own in ranks.items() if own != rank},
        alpha_pattern={f"^{layer}": own for layer, own in alphas.items() if own != alpha},
        lora_dropout=dropout,
        inference_mode=not train,
    )
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of several adapters, which are meant
        inject_adapter_in_model(config, model, adapter_name=name)
    model.train(model.training)  # what was put in is where the model is


def named_layers(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the linear layers whose names fit a pattern; raise `SpecError` for a pattern that fits none."""
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in linear):
            near = listed(linear, limit=6)
            raise SpecError(f"no linear layer is called '{pattern}' (there are {near}); patterns have the wildcards * ? []")
    return [name for name in linear if any(fnmatchcase(name, pattern) for pattern in patterns)]


def fetched(source: str | Path, weight_name: str | None, revision: str | None, access: Access) -> Path:
    """Return the file that a source means, fetched where it is on the hub."""
    path = Path(str(source).removeprefix("local-dir:").removeprefix("local-file:")).expanduser()
    if path.is_file():
        return path
    place: Place = Folder(path) if path.is_dir() else _repository(str(source), revision, access)
    if weight_name is None:
        found = [name for name in place.names() if name.endswith(".safetensors")]
        if FILE not in found and len(found) != 1:
            raise CheckpointError(f"{place} has {listed(found) if found else 'no safetensors'}; say which is the LoRA with weight_name")
        weight_name = FILE if FILE in found else found[0]
    return place.fetch([weight_name])[0]


def _repository(source: str, revision: str | None, access: Access) -> Repository:
    if source.count("/") != 1 and not source.startswith("hf-hub:"):
        raise CheckpointError(f"no LoRA '{source}': neither a file, nor a folder, nor a repository OWNER/REPO")
    repo, revision = parse(source if source.startswith("hf-hub:") else f"hf-hub:{source}", revision)
    return Repository(repo, revision, access)
