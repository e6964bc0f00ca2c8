"""torch-fidelity's Inception v3, whose features are those of the published FID."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ditzoo.errors import EvaluationError
from ditzoo.interfaces import Features, Seen
from ditzoo.places import file_sha256

FEATURES = "2048"
SCORES = "logits_unbiased"


class Inception(Features):
    """Pictures are given as bytes, as the network's port wants them; grey ones three times."""

    def __init__(self, weights: str | None) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise EvaluationError("features 'inception' need torch-fidelity: pip install 'ditzoo[evaluation]'") from error
        try:
            self.network: Any = FeatureExtractorInceptionV3(
                "inception-v3-compat", [FEATURES, SCORES], feature_extractor_weights_path=weights
            )
        except Exception as error:  # a download, a file, a pickle: whatever that library meets
            raise EvaluationError(
                f"cannot open Inception's weights ({str(error).splitlines()[0] if str(error) else type(error).__name__}); fetch "
                f"pt_inception-2015-12-05-6726825d.pth of torch-fidelity's releases and name the file: features.weights=PATH"
            ) from error
        self.network.eval()
        if weights is not None:
            self.sha256 = file_sha256(Path(weights).expanduser())
        else:
            with tempfile.NamedTemporaryFile(suffix=".pt") as file:  # the library does not say where it keeps them
                torch.save(self.network.state_dict(), file.name)
                self.sha256 = file_sha256(Path(file.name))

    def see(self, pixels: Tensor) -> Seen:
        levels = ((pixels.float().cpu() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        with torch.no_grad():
            features, scores = self.network(levels.expand(-1, 3, -1, -1))
        return Seen(features.float(), scores.float())
