"""Where a model comes from: catalogue name or alias, `hf-hub:OWNER/REPO[@REVISION]`, `local-dir:PATH`, `local-file:PATH`,
or a spec file `PATH.toml`. Imports no torch, and fetches no weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ditzoo.catalogue import override, read_toml
from ditzoo.errors import CheckpointError, HubError, UnknownNameError, suggest
from ditzoo.hub import Repository, parse
from ditzoo.hub_errors import Access
from ditzoo.model_spec import ModelSpec
from ditzoo.places import Folder, Place
from ditzoo.repositories import PIPELINE_FILE, labels_of, read_checkpoint, read_place
from ditzoo.weight_files import WeightFiles, find_weights
from ditzoo.zoo import Zoo

WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class Found:
    """What a name means: a spec, the place beside it, how its structure was found, and the zoo that it is valid in."""

    name: str
    spec: ModelSpec
    place: Place
    zoo: Zoo
    access: Access = field(default_factory=Access)
    notes: tuple[str, ...] = ()

    def opened(self) -> Found:
        """Return this with the place that holds its weights open: the repository, where the spec names one.

        Label names that the spec leaves out are taken from there. Raises `CheckpointError` where there are no weights at all.
        """
        weights = self.spec.weights
        if weights is None:
            raise CheckpointError(
                f"'{self.spec.name}' is an architecture without trained weights; train it with 'ditzoo train', or draw from "
                f"random weights with --random-weights (in Python: ditzoo.build)"
            )
        if weights.repo is None or isinstance(self.place, Repository):
            return self
        place = Repository(weights.repo, weights.revision, self.access)
        return replace(self, place=place, spec=_labelled(self.spec, place))

    def under(self, runtime: Any) -> Found:
        """Return this under another runtime: a part, or what a spec may have in its place."""
        fields = {name: getattr(self.spec, name) for name in type(self.spec).model_fields}
        return replace(self, spec=self.zoo.model(fields | {"runtime": runtime}, source=self.spec.name))

    def weights(self) -> WeightFiles:
        """Return the files of the weights; their names are checked to be there, their content is not fetched."""
        weights = self.spec.weights
        assert weights is not None, "opened() comes first"
        return find_weights(self.place, weights, self.zoo.layout(weights.layout))

    @property
    def folder(self) -> Path | None:
        """The folder of the spec if it is on this machine, for what is stored beside it (figures)."""
        return self.place.path if isinstance(self.place, Folder) else None


def resolve(name: str, zoo: Zoo, settings: Iterable[str] = (), *, access: Access | None = None, revision: str | None = None) -> Found:
    """Return what a name means, with `a.b=c` settings laid over its spec, checked."""
    settings, access = tuple(settings), access or Access()
    if name.startswith("hf-hub:"):
        repo, revision = parse(name, revision)
        return _read(name, _open(repo, revision, access, zoo), zoo, settings, repo.split("/")[1], access)
    if revision is not None:
        settings = (*settings, f"weights.revision={json.dumps(revision)}")
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:")).expanduser()
        if not folder.is_dir():
            what = f"is a file; write 'local-file:{folder}'" if folder.is_file() else "does not exist"
            raise UnknownNameError(f"folder '{folder}' {what}")
        return _read(name, Folder(folder), zoo, settings, folder.resolve().name, access)
    if name.startswith("local-file:"):
        path = Path(name.removeprefix("local-file:")).expanduser()
        if not path.is_file():
            raise UnknownNameError(
                f"file '{path}' does not exist" if not path.exists() else f"'{path}' is a folder; write 'local-dir:{path}'"
            )
        place = Folder(path.parent)
        reading = read_checkpoint(place, path.name, zoo, settings, path.stem)
        return Found(name, zoo.model(reading.settled(settings, path.name, zoo), source=path.name), place, zoo, access, tuple(reading.notes))
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        data = read_toml(path)
        data.setdefault("name", path.stem)
        return Found(name, zoo.model(override(data, settings), source=name), Folder(path.parent), zoo, access)
    return Found(name, zoo.spec(name, settings), Folder(zoo.catalogue.find(name).parent), zoo, access)


def _read(name: str, place: Place, zoo: Zoo, settings: tuple[str, ...], called: str, access: Access) -> Found:
    reading = read_place(place, zoo, settings, called)
    spec = zoo.model(reading.settled(settings, name, zoo), source=name)
    return Found(name, spec, place, zoo, access, tuple(reading.notes))


def _open(repo: str, revision: str | None, access: Access, zoo: Zoo) -> Repository:
    try:
        return Repository(repo, revision, access)
    except HubError as error:
        near = suggest(repo, {data["weights"]["repo"] for data in _catalogued(zoo) if "repo" in data.get("weights", {})})
        if near and str(error).startswith("no repository"):
            raise HubError(f"{error}{near}") from error
        raise


def _catalogued(zoo: Zoo) -> Iterable[dict[str, dict[str, str]]]:
    return (zoo.catalogue.read(path) for path in zoo.catalogue.paths.values())


def _labelled(spec: ModelSpec, place: Place) -> ModelSpec:
    """Name the prompt's classes as the repository does, where the spec does not."""
    if getattr(spec.prompt, "names", None) != () or not place.has(PIPELINE_FILE):
        return spec
    names = labels_of(place.read_json(PIPELINE_FILE), spec.prompt.item_classes)
    return spec.model_copy(update={"prompt": spec.prompt.model_copy(update={"names": names})})
