"""Feature networks for evaluation: `fashion-cnn`, our own, shipped; and `inception`, over which a Fréchet distance is called FID."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_features.specs import FashionCNNSpec, InceptionSpec

    return [FashionCNNSpec, InceptionSpec]
