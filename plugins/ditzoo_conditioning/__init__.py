"""The four conditionings of the DiT paper, and the prompts `none` and `label`, as a plugin of ditzoo."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_conditioning.prompts import LabelSpec, NoneSpec
    from ditzoo_conditioning.specs import AdaLNSpec, AdaLNZeroSpec, CrossAttentionSpec, InContextSpec

    return [AdaLNSpec, AdaLNZeroSpec, CrossAttentionSpec, InContextSpec, LabelSpec, NoneSpec]
