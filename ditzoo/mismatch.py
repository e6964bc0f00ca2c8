"""What is said when a checkpoint does not hold a model's weights: every key, grouped by block, and the probable cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ditzoo.errors import CheckpointError, DitzooError, LayoutError
from ditzoo.layouts import Layout
from ditzoo.model_spec import ModelSpec
from ditzoo.specs import shape


def compare(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what is wrong, a line for each sort: missing, unexpected, of another shape, of another sort of number."""
    shared = sorted(expected.keys() & tensors.keys())
    misfits = [name for name in shared if tensors[name].shape != expected[name].shape]
    kinds = [name for name in shared if tensors[name].is_floating_point() != expected[name].is_floating_point()]
    faults = (
        ("missing", [(name, "") for name in expected.keys() - tensors.keys()]),
        ("unexpected", [(name, "") for name in tensors.keys() - expected.keys()]),
        (
            "of another shape",
            [(name, f" is {shape(tensors[name].shape) or 'a number'}, model has {shape(expected[name].shape)}") for name in misfits],
        ),
        ("of another type", [(name, f" is {tensors[name].dtype}") for name in kinds]),
    )
    return [f"{len(found)} {label}: {', '.join(grouped(found))}" for label, found in faults if found]


def grouped(names: Iterable[tuple[str, str]]) -> list[str]:
    """Write keys with their remarks, those that differ only in their first number as one: `blocks.{0-27}.attn.proj.bias`."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for name, remark in names:
        found = re.search(r"(?<=\.)\d+(?=\.)", name)
        head, tail = (name[: found.start()], name[found.end() :]) if found else (name, "")
        groups.setdefault((head, tail, remark), []).extend([int(found.group())] if found else [])
    return [
        f"{head}{_ranges(numbers) if numbers else ''}{tail}{remark}"
        for (head, tail, remark), numbers in sorted(groups.items(), key=lambda g: g[0])
    ]


def _ranges(numbers: list[int]) -> str:
    """Write numbers as `3` or `{0-5,7}`."""
    numbers, parts = sorted(numbers), []
    while numbers:
        run = 1
        while run < len(numbers) and numbers[run] == numbers[0] + run:
            run += 1
        parts.append(str(numbers[0]) if run == 1 else f"{numbers[0]}-{numbers[run - 1]}")
        numbers = numbers[run:]
    return parts[0] if len(parts) == 1 and "-" not in parts[0] else "{" + ",".join(parts) + "}"


def refusal(
    source: str, faults: list[str], tensors: Mapping[str, Tensor], layout: Layout, spec: ModelSpec, layouts: Iterable[Layout]
) -> CheckpointError:
    """Return the error for a checkpoint that does not fit a model in a layout."""
    cause = probable_cause(tensors, layout, spec, layouts)
    return CheckpointError(f"{source} does not hold the weights of '{spec.name}' in layout '{layout.name}': {'; '.join(faults)}{cause}")


def probable_cause(tensors: Mapping[str, Tensor], layout: Layout, spec: ModelSpec, layouts: Iterable[Layout]) -> str:
    """Say what the checkpoint looks like instead, if that can be told."""
    fitting = [other for other in layouts if other.marks and all(mark in tensors for mark in other.marks)]
    if fitting and layout not in fitting:
        names = " or ".join(f"'{other.name}'" for other in fitting)
        return f". Its keys are those of layout {names}: set weights.layout"
    if layout in fitting:
        try:
            seen = layout.inspect(tensors)
        except LayoutError as error:
            return f". {error}"
        except (DitzooError, KeyError, IndexError, ValueError):
            return ""
        told = [
            f"{slot}.{name}={value} (spec: {getattr(getattr(spec, slot), name)})"
            for slot, fields in seen.parts.items()
            if slot in ("backbone", "prompt")
            for name, value in fields.items()
            if hasattr(getattr(spec, slot), name) and _plain(getattr(getattr(spec, slot), name)) != _plain(value)
        ]
        if told:
            return f". The checkpoint looks like {', '.join(told)}"
    return ""


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else value
