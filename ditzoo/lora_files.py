"""LoRA files in diffusers' format, read for a model of ours and written from one: `transformer.NAME.lora_A.weight` and `lora_B`.

A layer's name there is that of its weight in the layout that the model has in diffusers; where it has none, its own name. Ranks and
alphas are in the header, as diffusers writes them, or beside the matrices (`NAME.alpha`); where nothing is told alpha is the rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError, listed
from ditzoo.layouts import Layout, Own, Row, Same, Swapped, value_at
from ditzoo.model_spec import ModelSpec
from ditzoo.weights import save_weights
from ditzoo.zoo import Zoo

FILE, PREFIX, HEADER = "pytorch_lora_weights.safetensors", "transformer.", "lora_adapter_metadata"
PART = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|alpha)")
BASE = ".base_layer"  # what peft puts between the name of a layer and that of its own weight


class Delta(NamedTuple):
    """What is added to a layer's weight (out, in): alpha / rank times up @ down."""

    down: Tensor  # (rank, in)
    up: Tensor  # (out, rank)
    alpha: float


@dataclass(frozen=True)
class Names:
    """Linear layers of a model under the names of a layout: by their name there, the name here and how a weight passes."""

    layout: str
    ours: Mapping[str, str]
    rows: Mapping[str, Row]
    shapes: Mapping[str, tuple[int, ...]]  # (out, in), by the name there

    @property
    def theirs(self) -> dict[str, str]:
        """Names there by names here."""
        return {ours: theirs for theirs, ours in self.ours.items()}


def names_of(model: nn.Module, spec: ModelSpec, zoo: Zoo) -> Names:
    """Return a model's linear layers under the names that they have in diffusers, or under their own."""
    own = {name.replace(BASE, ""): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    layout = next((layout for layout in zoo.layouts.values() if layout.family == "diffusers" and _holds(layout, spec)), Own())
    rows: dict[str, Row] = {}
    for row in layout.rows(spec, own):
        plain = isinstance(row, Same | Swapped) and row.ours[0].endswith(".weight") and row.ours[0] in own
        if plain and own[row.ours[0]].dim() == 2 and _linear(model, row.ours[0].removesuffix(".weight")):
            rows[row.theirs[0].removesuffix(".weight")] = row
    shapes = {theirs: tuple(own[row.ours[0]].shape) for theirs, row in rows.items()}
    return Names(layout.name, {theirs: row.ours[0].removesuffix(".weight") for theirs, row in rows.items()}, rows, shapes)


def _holds(layout: Layout, spec: ModelSpec) -> bool:
    return all(value_at(spec, path) == layout.means.get(path) for path in ("backbone.kind", "conditioning.kind"))


def _linear(model: nn.Module, name: str) -> bool:
    layer = model.get_submodule(name)
    return isinstance(getattr(layer, "base_layer", layer), nn.Linear)


def read_lora(path: Path, names: Names, model: str) -> dict[str, Delta]:
    """Read a file's deltas by the names of layers here; raise `CheckpointError` for whatever does not fit them, naming key and shapes."""
    tensors, config = open_file(path).tensors, _header(path)
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        found = PART.fullmatch(key)
        theirs = found[1].removeprefix(PREFIX) if found else ""
        if found is None or theirs not in names.ours:
            raise CheckpointError(f"{path}: {_unknown(key, bool(found), names, model)}")
        layers.setdefault(theirs, {})[found[2].removesuffix(".weight")] = tensor
    if not layers:
        raise CheckpointError(f"{path} holds no LoRA: it is empty; save it again")
    return {names.ours[theirs]: _delta(path, theirs, parts, config, names, model) for theirs, parts in layers.items()}


def _delta(path: Path, theirs: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], names: Names, model: str) -> Delta:
    if missing := {"lora_A", "lora_B"} - parts.keys():
        raise CheckpointError(f"{path}: {theirs} has no {listed(sorted(missing))}; the file is incomplete, fetch or save it again")
    down, up, (rows, columns) = parts["lora_A"], parts["lora_B"], names.shapes[theirs]
    rank = down.shape[0]
    for leaf, tensor, due in (("lora_A", down, (rank, columns)), ("lora_B", up, (rows, rank))):
        if tuple(tensor.shape) != due:
            raise CheckpointError(
                f"{path}: {theirs}.{leaf}.weight is {tuple(tensor.shape)}, and '{model}' needs {due}, its layer being {(rows, columns)}: "
                f"it was made for a model of another size; load it into that one"
            )
    alpha = float(parts["alpha"]) if "alpha" in parts else _alpha(theirs, rank, config)
    (turned,) = names.rows[theirs].read([up])
    return Delta(down, turned, alpha)


def _alpha(theirs: str, rank: int, config: Mapping[str, Any]) -> float:
    patterns = config.get("alpha_pattern") or {}
    named = next((pattern for pattern in patterns if re.fullmatch(rf"(.*\.)?({pattern})", theirs)), None)
    alpha = float(config.get("lora_alpha", rank) if named is None else patterns[named])
    return alpha * rank**0.5 if config.get("use_rslora") else alpha  # alpha / sqrt(rank), Kalajdzievski 2023


def _header(path: Path) -> dict[str, Any]:
    """Return the configuration of the network's adapter that the file's header tells, empty where it tells none."""
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the header of {path}: {error}; save the LoRA again, as safetensors") from error
    prefixed = any(name.startswith(PREFIX) for name in told)
    config = {name.removeprefix(PREFIX): value for name, value in told.items() if not prefixed or name.startswith(PREFIX)}
    if config.get("use_dora"):
        raise CheckpointError(f"{path} is a DoRA, which changes magnitudes too; load a plain LoRA")
    return config


def _unknown(key: str, known_form: bool, names: Names, model: str) -> str:
    if key.startswith(("text_encoder.", "text_encoder_2.", "text_encoder_3.")):
        return (
            f"'{key}' is of a text encoder, and encoders are left as they are here; save the network's part alone "
            f"(save_lora_weights(transformer_lora_layers=...))"
        )
    if not known_form:
        return f"'{key}' is not in diffusers' LoRA format (NAME.lora_A.weight); convert it: load it into diffusers and save it from there"
    return (
        f"'{key}' is of no linear layer of '{model}' (layout {names.layout}, with {listed(names.ours, limit=3)}): it was made for "
        f"another architecture; load it into that one"
    )


def write_lora(path: Path, deltas: Mapping[str, Delta], names: Names) -> None:
    """Write deltas, by names of layers here, as diffusers does."""
    from peft import LoraConfig

    if unnamed := sorted(deltas.keys() - names.theirs.keys()):
        raise CheckpointError(f"layout '{names.layout}' has no name for {listed(unnamed)}, so none could load them; leave them out")
    tensors: dict[str, Tensor] = {}
    ranks, alphas = dict[str, int](), dict[str, float]()
    for ours, delta in deltas.items():
        theirs = names.theirs[ours]
        (up,) = names.rows[theirs].write([delta.up])
        tensors |= {f"{PREFIX}{theirs}.lora_A.weight": delta.down, f"{PREFIX}{theirs}.lora_B.weight": up}
        ranks[theirs], alphas[theirs] = delta.down.shape[0], delta.alpha
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(ranks),
        rank_pattern={f"^{name}": own for name, own in ranks.items() if own != rank},
        alpha_pattern={f"^{name}": own for name, own in alphas.items() if own != alpha},
    ).to_dict()
    told = {f"{PREFIX}{name}": sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    save_weights(tensors, path, metadata={HEADER: json.dumps(told, indent=2, sort_keys=True, default=str)})
