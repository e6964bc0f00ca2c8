"""Feature networks: `fashion-cnn`, `avatar-cnn` and, of clips, `motion-cnn`, our own; `inception`, over which a distance is called FID."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_features.specs import AvatarCNNSpec, FashionCNNSpec, InceptionSpec, MotionCNNSpec

    return [FashionCNNSpec, AvatarCNNSpec, MotionCNNSpec, InceptionSpec]
