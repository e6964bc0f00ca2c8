"""Where noise comes from: a generator for each sample, so a picture does not change with its batch or device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def derived_seed(*words: object) -> int:
    """Mix words (a seed, an index, a purpose) into one 63-bit seed; near inputs give unrelated outputs."""
    text = "/".join(str(word) for word in words).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(*words: object) -> torch.Generator:
    """Return a new CPU generator seeded by `derived_seed(*words)`."""
    return torch.Generator().manual_seed(derived_seed(*words))


@dataclass(frozen=True)
class Noise:
    """Standard normal noise in CPU fp32, a generator a row; or one generator that all rows share.

    With a shared generator the rows are drawn together, as diffusers draws them: a picture then depends on its
    place in the batch. Generators advance as they are used, so one `Noise` serves one run.
    """

    generators: Sequence[torch.Generator]
    shared: bool = False

    @classmethod
    def seeded(cls, seed: int, indices: Sequence[int]) -> Noise:
        """Noise of pictures `indices` of `seed`: row i depends on (seed, indices[i]) alone."""
        return cls([generator(seed, index) for index in indices])

    def draw(self, like: Tensor) -> Tensor:
        """Return noise in the shape, dtype and device of `like` (B, ...)."""
        if self.shared:
            drawn = torch.randn(like.shape, generator=self.generators[0])
        else:
            assert len(self.generators) == len(like), "one generator a row"
            drawn = torch.stack([torch.randn(like.shape[1:], generator=one) for one in self.generators])
        return drawn.to(like.device, like.dtype)
