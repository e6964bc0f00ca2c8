"""Datasets (fashion-mnist, image-folder, latents, avatars) and codecs (pixels, autoencoder-kl, video-autoencoder) as a plugin of ditzoo."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.layouts import Component
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_data.avatars_spec import AvatarsSpec
    from ditzoo_data.codecs import AutoencoderKLSpec, PixelsSpec
    from ditzoo_data.fashion_mnist import FashionMNISTSpec
    from ditzoo_data.image_folder import ImageFolderSpec
    from ditzoo_data.latents_spec import LatentsSpec
    from ditzoo_data.video_codecs import VideoAutoencoderSpec

    return [PixelsSpec, AutoencoderKLSpec, FashionMNISTSpec, ImageFolderSpec, LatentsSpec, AvatarsSpec, VideoAutoencoderSpec]


@hookimpl
def ditzoo_components() -> list[Component]:
    from ditzoo_data.components import Autoencoders, VideoAutoencoders

    return [Autoencoders(), VideoAutoencoders()]
