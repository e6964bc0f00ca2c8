"""Where a model comes from: catalogue name or alias, `local-dir:PATH`, or a spec file `PATH.toml`. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ditzoo.catalogue import override, read_toml
from ditzoo.errors import CheckpointError, SpecError, UnknownNameError
from ditzoo.model_spec import ModelSpec
from ditzoo.zoo import Zoo

SPEC_FILE, WEIGHTS_FILE = "ditzoo.json", "model.safetensors"


def resolve(name: str, zoo: Zoo, settings: Iterable[str] = ()) -> tuple[ModelSpec, Path]:
    """Return the spec that a name means, with `a.b=c` settings laid over it, and the folder of its weights file."""
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:")).expanduser()
        return _read_folder(folder, zoo, settings), folder
    if name.startswith("hf-hub:"):
        raise SpecError(f"'{name}': this version opens catalogue names, 'local-dir:PATH' and 'SPEC.toml'; hub sources are to come")
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        data = read_toml(path)
        data.setdefault("name", path.stem)
        return zoo.model(override(data, settings), source=name), path.parent
    return zoo.spec(name, settings), zoo.catalogue.find(name).parent


def weights_path(spec: ModelSpec, folder: Path) -> Path:
    """Return the weights file of a spec; raise `CheckpointError` with the way out where there is none here."""
    if spec.weights is None:
        raise CheckpointError(
            f"'{spec.name}' is an architecture without trained weights; train it with 'ditzoo train', or draw from "
            f"random weights with --random-weights (in Python: ditzoo.build)"
        )
    if spec.weights.file is None:
        raise CheckpointError(
            f"the weights of '{spec.name}' are on the hub at {spec.weights.repo}, and this version opens local files alone; "
            f"'ditzoo list --with-weights' shows what can be drawn now, --random-weights draws from random ones"
        )
    path = folder / spec.weights.file
    if not path.is_file():
        raise CheckpointError(f"no weights file {path}; the spec '{spec.name}' names it, so the folder is incomplete")
    return path


def _read_folder(folder: Path, zoo: Zoo, settings: Iterable[str]) -> ModelSpec:
    path = folder / SPEC_FILE
    if not path.is_file():
        inside = folder / "model"
        near = f"; did you mean 'local-dir:{inside}'?" if (inside / SPEC_FILE).is_file() else ""
        what = "is not a saved ditzoo model" if folder.is_dir() else "does not exist"
        raise UnknownNameError(f"folder '{folder}' {what}: no {SPEC_FILE} in it{near}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    return zoo.model(override(data, settings), source=str(path))
