"""One page of reference for each slot, written from the interfaces: `python -m ditzoo.reference docs/reference`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ditzoo import interfaces, passes
from ditzoo.files import write_text
from ditzoo.specs import SLOTS, Part
from ditzoo.zoo import Zoo

# by slot: the classes that a part's `build` returns, and what they are given
WORKING: dict[str, tuple[type, ...]] = {
    "backbone": (interfaces.Backbone, interfaces.Stream),
    "conditioning": (interfaces.Conditioning, interfaces.BlockParts),
    "prompt": (interfaces.Prompt, interfaces.Cond),
    "schedule": (interfaces.Schedule, interfaces.Prediction),
    "spacing": (interfaces.Spacing,),
    "sampler": (interfaces.Sampler, interfaces.Denoise),
    "codec": (interfaces.Codec,),
    "dataset": (interfaces.Dataset,),
    "features": (interfaces.Features, interfaces.Seen),
    "loss": (interfaces.Loss, interfaces.Passage),
    "exits": (interfaces.Exits,),
    "positions": (interfaces.Positions,),
    "attention": (interfaces.Pattern,),
    "runtime": (interfaces.Runtime,),
    "policy": (interfaces.DepthPolicy, interfaces.Evaluate, passes.Passes, passes.Branch),
}


def page(slot: str, zoo: Zoo) -> str:
    """Return a slot's page: its spec, what it builds, and the kinds that are installed."""
    base = SLOTS[slot]
    lines = [f"# The slot `{slot}`", "", "<!-- python -m ditzoo.reference docs/reference writes this page -->", ""]
    lines += [_text(base), "", f"## `{base.__name__}`, the spec", "", "Frozen pydantic data; no torch is imported with it.", ""]
    lines += [*_fields(base), "", *_members(base)]
    for cls in WORKING[slot]:
        lines += ["", f"## `{cls.__name__}`", "", _text(cls), "", *_members(cls)]
    lines += ["", "## Installed kinds", "", "| kind | |", "| --- | --- |"]
    lines += [f"| `{kind}` | {_first(zoo.kinds[slot][kind])} |" for kind in sorted(zoo.kinds[slot])]
    return "\n".join(lines).rstrip() + "\n"


def _text(thing: Any) -> str:
    return " ".join(inspect.cleandoc(thing.__doc__ or "").split())


def _first(cls: type[Part]) -> str:
    text = _text(cls)
    return text.split(". ")[0].rstrip(".").replace("|", "\\|")


def _fields(cls: type[Part]) -> Iterator[str]:
    yield "| field | type | default | |"
    yield "| --- | --- | --- | --- |"
    for name, field in cls.model_fields.items():
        kind = inspect.formatannotation(field.annotation).replace("typing.", "").replace("|", "\\|")
        default = "" if field.is_required() else f"`{field.default!r}`"
        yield f"| `{name}` | `{kind}` | {default} | {field.description or ''} |"


def _members(cls: type) -> Iterator[str]:
    """Yield a paragraph for each public method and property that the class itself has a docstring for."""
    for name, member in vars(cls).items():
        target = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(target) or not target.__doc__:
            continue
        signature = str(inspect.signature(target)).replace("'", "")
        shown = f"`{name}`" if isinstance(member, property) else f"`{name}{signature}`"
        due = " (to be written)" if getattr(target, "__isabstractmethod__", False) else ""
        yield f"- {shown}{due}: {_text(target)}"


def main(folder: Path) -> None:
    zoo = Zoo.installed()
    for slot in SLOTS:
        write_text(folder / f"{slot}.md", page(slot, zoo))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
