"""Video: space-time patches, attention and positions over any number of axes, as a plugin of ditzoo."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_video.folder_spec import VideoFolderSpec
    from ditzoo_video.moving_spec import MovingFashionSpec
    from ditzoo_video.patterns_spec import FactorisedSpec, JointSpec, WindowedSpec
    from ditzoo_video.positions_spec import RotarySpec, SineCosineSpec
    from ditzoo_video.spec import VideoDiTSpec

    return [VideoDiTSpec, JointSpec, FactorisedSpec, WindowedSpec, SineCosineSpec, RotarySpec, MovingFashionSpec, VideoFolderSpec]
