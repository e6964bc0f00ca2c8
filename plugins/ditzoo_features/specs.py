"""Specs of the feature networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ditzoo.specs import FeaturesSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Features


class FashionCNNSpec(FeaturesSpec):
    """A small classifier of Fashion-MNIST, 128 features; its weights ship with this plugin. For 28x28 grey pictures.

    `weights` is another file of the same network, as `python -m ditzoo_features.training` writes it.
    """

    kind: Literal["fashion-cnn"] = "fashion-cnn"
    distance: ClassVar[str] = "Fréchet distance over fashion-cnn"
    weights: str | None = None

    @property
    def item_classes(self) -> int:
        return 10

    def build(self) -> Features:
        from ditzoo_features.fashion_cnn import FashionCNN

        return FashionCNN(self.weights)


class AvatarCNNSpec(FeaturesSpec):
    """A small network that reads nine attributes of a 16x16 pixel avatar, 128 features; its weights ship with this plugin.

    `weights` is another file of the same network, as `python -m ditzoo_features.training` writes it.
    """

    kind: Literal["avatar-cnn"] = "avatar-cnn"
    distance: ClassVar[str] = "Fréchet distance over avatar-cnn"
    weights: str | None = None

    def build(self) -> Features:
        from ditzoo_features.avatar_cnn import AvatarCNN

        return AvatarCNN(self.weights)


class MotionCNNSpec(FeaturesSpec):
    """A small space-time network that reads article, motion and speed of a moving article; 192 features, weights ship with this plugin.

    For grey clips of any size from 3 frames of 28x28. `weights` is another file of the same network.
    """

    kind: Literal["motion-cnn"] = "motion-cnn"
    distance: ClassVar[str] = "Fréchet video distance over motion-cnn"
    weights: str | None = None

    def build(self) -> Features:
        from ditzoo_features.motion_cnn import MotionCNN

        return MotionCNN(self.weights)


class InceptionSpec(FeaturesSpec):
    """Inception v3 as torch-fidelity ported it from TensorFlow, 2048 features: what FID is measured with (Heusel et al. 2017).

    Its weights are fetched by torch-fidelity when first used, or read from the file `weights`.
    """

    kind: Literal["inception"] = "inception"
    distance: ClassVar[str] = "FID"
    weights: str | None = None

    def build(self) -> Features:
        from ditzoo_features.inception import Inception

        return Inception(self.weights)
