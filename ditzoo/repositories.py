"""Reading what a place holds as a model spec: ditzoo's own folder, a diffusers pipeline, a bare network, a lone checkpoint.

No weights are fetched where configs tell the structure. What nothing in the place tells must be said with settings, and the
error names each. No torch, unless keys and shapes of a checkpoint are all there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from ditzoo.catalogue import override
from ditzoo.errors import CheckpointError, LayoutError, SpecError, explain, listed
from ditzoo.layouts import Data, Inspection, Layout
from ditzoo.places import Folder, Place
from ditzoo.zoo import Zoo

SPEC_FILE, PIPELINE_FILE, CONFIG_FILE = "ditzoo.json", "model_index.json", "config.json"
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass
class Reading:
    """A spec as data, with notes on how it was found and the questions that settings must answer."""

    data: Data
    notes: list[str] = field(default_factory=list)
    open: dict[str, str] = field(default_factory=dict)

    def settled(self, settings: Iterable[str], source: str, zoo: Zoo) -> Data:
        """Lay settings over the data; raise `SpecError` for each question that they leave open.

        What the weights were made for is what the place says of schedule and latent, and what a setting says where it is silent.
        """
        paths = [setting.partition("=")[0].strip() for setting in settings]
        left = [
            f"{source}: {sentence}"
            for path, sentence in self.open.items()
            if not any(f"{told}.".startswith(f"{path}.") or f"{path}.".startswith(f"{told}.") for told in paths)
        ]
        if left:
            raise SpecError("\n".join(left))
        data = override(self.data, settings)
        if self.open:
            data["weights"] = _contract(data, zoo, source) | data["weights"]
        return data


def read_place(place: Place, zoo: Zoo, settings: Iterable[str], name: str) -> Reading:
    """Read a place by what lies at its top; `name` is what the model is called where the place does not say."""
    tops = {SPEC_FILE: read_own, PIPELINE_FILE: read_pipeline, CONFIG_FILE: read_network}
    # what lies here is asked first: a look elsewhere would be a request, and each of these tells of the same model
    top = next((top for top in tops if place.here(top)), None) or next((top for top in tops if place.has(top)), None)
    if top is not None:
        return tops[top](place, zoo, name)
    found = [file for file in place.names() if PurePosixPath(file).suffix in CHECKPOINTS]
    told = override({}, settings).get("weights", {}).get("file")
    if len(found) == 1 or told:
        return read_checkpoint(place, told or found[0], zoo, settings, name)
    if found:
        raise CheckpointError(f"{place} holds {len(found)} checkpoints and no spec: {listed(found)}; choose one with weights.file=NAME")
    raise CheckpointError(
        f"{place} holds no model: no {SPEC_FILE}, {PIPELINE_FILE} or {CONFIG_FILE} at its top, and no checkpoint "
        f"({', '.join(CHECKPOINTS)}){_deeper(place)}"
    )


def read_own(place: Place, zoo: Zoo, name: str) -> Reading:
    """Read ditzoo's own spec; a part whose source is "." finds its files in this place."""
    data = place.read_json(SPEC_FILE)
    return Reading(
        {slot: part | place.parts_source if isinstance(part, dict) and part.get("source") == "." else part for slot, part in data.items()}
    )


def read_pipeline(place: Place, zoo: Zoo, name: str) -> Reading:
    """Read a repository in diffusers' layout: the network's config, scheduler, autoencoder, labels."""
    index = place.read_json(PIPELINE_FILE)
    members = {key: value[1] for key, value in index.items() if isinstance(value, list) and len(value) == 2 and value[1]}
    known = {word for layout in zoo.layouts.values() for word in layout.classes}
    networks = [key for key, word in members.items() if word in known]
    if len(networks) != 1:
        held = listed(f"{key} {word}" for key, word in members.items())
        raise LayoutError(
            f"{place} is a {index.get('_class_name', 'pipeline')} of {held}; "
            f"none of the installed layouts reads a network of it (they read {listed(sorted(known))}); "
            f"a plugin that does would offer it under the hook ditzoo_layouts"
        )
    config_of_network = f"{networks[0]}/{CONFIG_FILE}"
    layout = _reader(zoo, str(members[networks[0]]), place.read_json(config_of_network))
    assert layout is not None, "its class is known"
    reading = _network(place, config_of_network, layout)
    for key, word in members.items():
        if key in networks:
            continue
        component = zoo.components.get(str(word))
        if component is None:
            for slot in {"scheduler": ("sampler", "schedule"), "vae": ("codec",)}.get(key, ()):
                reading.open[slot] = f"no installed plugin reads {key} '{word}'; say what stands for it with {slot}.kind=KIND"
            reading.notes.append(f"left out {key} '{word}': no installed plugin reads it")
            continue
        config = place.read_json(f"{key}/{component.config}")
        for slot, part in component.read(str(word), config, place.parts_source | {"subfolder": key}).items():
            if isinstance(part, str):
                reading.open[slot] = part
            else:  # several members may tell of one part
                reading.data[slot] = part if "kind" in part else reading.data.get(slot, {}) | part
    for slot, fields in layout.read_index(index, reading.data).items():
        reading.data[slot] = reading.data.get(slot, {}) | fields
    if "prompt" in reading.data and (names := labels_of(index, reading.data["prompt"].get("classes"))):
        reading.data["prompt"]["names"] = names
    return _with_weights(reading, layout, zoo, place, name)


def read_network(place: Place, zoo: Zoo, name: str) -> Reading:
    """Read a folder of a network alone. Its schedule, sampler and codec are not told there, and become questions."""
    config = place.read_json(CONFIG_FILE)
    word = config.get("_class_name")
    layout = _reader(zoo, str(word), config)
    if layout is None:
        raise LayoutError(
            f"{place} is a '{word or config.get('model_type', 'network without a class')}', which no installed layout reads{_above(place)}"
        )
    reading = _network(place, CONFIG_FILE, layout)
    stem = PurePosixPath(layout.files[0]).name
    reading.data["weights"] = {
        "file": next((stem + end for end in (".safetensors", ".safetensors.index.json", ".bin") if place.has(stem + end)), None)
    }
    for slot in ("schedule", "sampler", "codec"):
        reading.open[slot] = f"{place} is a network alone, without {slot}; say it with {slot}.kind=KIND{_above(place)}"
    return _with_weights(reading, layout, zoo, place, name)


def read_checkpoint(place: Place, file: str, zoo: Zoo, settings: Iterable[str], name: str) -> Reading:
    """Read a lone checkpoint by its keys and shapes, in the layout that a setting names, or the only one that it fits."""
    from ditzoo.checkpoints import open_checkpoint
    from ditzoo.weight_files import WeightFiles

    told = override({}, settings).get("weights", {})
    checkpoint = open_checkpoint(WeightFiles(place, (file,)), entry=told.get("entry"))
    keys = checkpoint.tensors
    marked = [layout for layout in zoo.layouts.values() if layout.marks]
    if "layout" in told:
        layout = zoo.layout(told["layout"])
        if absent := [mark for mark in layout.marks if mark not in keys]:
            raise LayoutError(f"{file} is not in layout '{layout.name}': it has no {listed(absent)}{_nearest(keys, marked)}")
    else:
        fitting = [layout for layout in marked if all(mark in keys for mark in layout.marks)]
        if not fitting:
            raise LayoutError(f"{file} of {place} is in no layout that is installed{_nearest(keys, marked)}")
        if len(fitting) > 1:
            names = [f"weights.layout={layout.name}" for layout in fitting]
            raise LayoutError(
                f"the keys of {file} are the same in the layouts {' and '.join(repr(layout.name) for layout in fitting)}, "
                f"which are other functions; say which it is: {' or '.join(names)}"
            )
        (layout,) = fitting
    seen: Inspection = layout.inspect(keys)
    reading = Reading({slot: dict(part) for slot, part in seen.parts.items()}, [*checkpoint.notes, *seen.notes], dict(seen.open))
    reading.data["weights"] = {"file": file}
    return _with_weights(reading, layout, zoo, place, name)


def labels_of(index: Data, classes: int | None) -> tuple[str, ...]:
    """Return the class names in a pipeline's `id2label`, in order; none unless they are those of exactly `classes` classes."""
    labels = index.get("id2label")
    if not isinstance(labels, dict) or set(map(str, labels)) != set(map(str, range(classes or 0))):
        return ()
    by_number = {int(number): str(label) for number, label in labels.items()}
    return tuple(by_number[number] for number in sorted(by_number))


def _reader(zoo: Zoo, word: str, config: Data) -> Layout | None:
    """Return the layout that reads a network of a class; where several share the class, the one that says it reads its config."""
    sharing = [layout for layout in zoo.layouts.values() if word in layout.classes]
    return next((layout for layout in sharing if layout.reads(config)), next(iter(sharing), None))


def _network(place: Place, config: str, layout: Layout) -> Reading:
    parts = layout.read_config(place.read_json(config))
    return Reading(
        {slot: dict(part) for slot, part in (layout.defaults() | parts).items()}, [f"read as layout '{layout.name}' by {config}"]
    )


def _with_weights(reading: Reading, layout: Layout, zoo: Zoo, place: Place, name: str) -> Reading:
    """Add name, licence and the contract of the weights: the schedule and latent that the place itself speaks of."""
    data = reading.data
    data["name"] = name
    licence = _licence(place)
    if licence:
        data.setdefault("card", {})["license"] = licence
    weights = {"layout": layout.name} | data.get("weights", {}) | _contract(data, zoo, str(place))
    data["weights"] = {key: value for key, value in weights.items() if value is not None}
    return reading


def _contract(data: Data, zoo: Zoo, source: str) -> Data:
    """Return what weights are bound to by a schedule and a codec, as far as there are any."""
    bound = {"schedule": data["schedule"]} if "schedule" in data else {}
    if "codec" in data:
        try:
            bound["latent"] = zoo.part("codec", data["codec"]).latent().model_dump()  # type: ignore[attr-defined]
        except ValidationError as error:
            raise explain(error, f"{source}: codec") from error
        except PydanticCustomError as error:
            raise SpecError(f"{source}: codec: {error.message()}") from error
    return bound


def _licence(place: Place) -> str | None:
    if not place.here("README.md"):
        return None
    from huggingface_hub import metadata_load

    try:
        (path,) = place.fetch(["README.md"])
        told: dict[str, Any] = metadata_load(path) or {}
    except Exception:  # a card that cannot be read is no reason not to load a model
        return None
    return str(told["license"]) if told.get("license") else None


def _nearest(keys: Iterable[str], layouts: list[Layout]) -> str:
    held = set(keys)
    near = max(layouts, key=lambda layout: sum(mark in held for mark in layout.marks) / len(layout.marks), default=None)
    if near is None or not any(mark in held for mark in near.marks):
        return f"; its keys begin {listed(sorted(held), limit=3)} (layouts: {listed(layout.name for layout in layouts)})"
    lacking = [mark for mark in near.marks if mark not in held]
    return f"; the nearest is '{near.name}'" + (f", which also has {listed(lacking)}" if lacking else "")


def _deeper(place: Place) -> str:
    if isinstance(place, Folder):
        near = sorted(path.parent for name in (SPEC_FILE, PIPELINE_FILE) for path in place.path.glob(f"*/{name}"))
        if near:
            return f"; did you mean {' or '.join(repr(f'local-dir:{path}') for path in near)}?"
    return ""


def _above(place: Place) -> str:
    if isinstance(place, Folder) and (place.path.resolve().parent / PIPELINE_FILE).is_file():
        return f", or open the whole pipeline: 'local-dir:{place.path.resolve().parent}'"
    return ""
