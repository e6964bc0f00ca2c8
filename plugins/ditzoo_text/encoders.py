"""Frozen text encoders of transformers, each loaded when first asked; what they said is kept on disk, by what they are and were asked."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError
from ditzoo.evaluation.reference import cache_folder
from ditzoo.interfaces import Cond
from ditzoo.weights import save_weights

if TYPE_CHECKING:
    from ditzoo_text.frozen import FrozenTextSpec


class States(NamedTuple):
    """What encoders say of one prompt."""

    pooled: Tensor  # (P,)
    tokens: Tensor  # (L, S)
    mask: Tensor | None = None  # (L,) bool, which tokens count; None: all


class Encoders(ABC):
    """Parts of one source in transformers' layout, by folder. They work in fp32: in fp16 T5 overflows."""

    def __init__(self, spec: FrozenTextSpec) -> None:
        self.spec = spec
        self._loaded: dict[str, Any] = {}
        self._said: dict[Hashable, States] = {}

    def free(self) -> None:
        """Let go of the encoders; what they said stays."""
        self._loaded.clear()

    @torch.no_grad()
    def states(self, asked: Hashable, device: torch.device) -> States:
        """Return what the encoders say of a prompt as the spec parsed it, from memory or disk where it was said before."""
        if asked not in self._said:
            self._said[asked] = self._kept(asked, device)
        return self._said[asked]

    @abstractmethod
    def made(self, asked: Any, device: torch.device) -> States:
        """Ask the encoders; return what they say on the CPU."""

    @abstractmethod
    def opened(self, role: str, options: dict[str, Any]) -> Any:
        """Open one part by transformers: a module or a tokenizer. `options` say where in the source it is."""

    def folder_of(self, role: str) -> str:
        """Return the folder of the source that a part is in; empty: the source itself."""
        return role

    def without(self, role: str) -> str:
        """Return how to go on without a part that cannot be opened, if one can."""
        return ""

    def _kept(self, asked: Hashable, device: torch.device) -> States:
        path = cache_folder() / "prompts" / f"{self._key(asked)}.safetensors"
        if path.is_file():
            try:
                held = open_file(path).tensors
                return States(held["pooled"].clone(), held["tokens"].clone(), held["mask"].clone() if "mask" in held else None)
            except (CheckpointError, KeyError):  # a cache is only a saving: what is damaged is made again
                pass
        made = self.made(asked, device)
        if not torch.isfinite(made.tokens).all():
            raise CheckpointError(
                f"an encoder of '{self.spec.source}' says numbers that are not finite, though it works in fp32: its weights are damaged, "
                f"or were saved where they overflowed; fetch others"
            )
        save_weights({name: tensor for name, tensor in made._asdict().items() if tensor is not None}, path)
        return made

    def _key(self, asked: Hashable) -> str:
        spec, digest = self.spec, hashlib.sha256()
        for word in (spec.model_dump_json(exclude={"dropout", "shown"}), asked):
            digest.update(f"{word!r}\n".encode())
        for source, _, patterns in spec.files_used():
            folder = Path(source).expanduser()
            files = {file for pattern in patterns for file in folder.glob(pattern)} if folder.is_dir() else set[Path]()
            for file in sorted(files):  # a folder may change; a commit does not
                stamp = file.stat()
                digest.update(f"{file.name} {stamp.st_size} {stamp.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def ids(self, tokenizer: str, text: str, length: int) -> tuple[Tensor, Tensor]:
        """Return a text's tokens, padded or cut to `length`, and which of them are of the text, at least one: both (1, length).

        Whatever is cut is told of in a warning.
        """
        read = self.part(tokenizer, torch.device("cpu"))
        told = read(text, padding="max_length", max_length=length, truncation=True, return_attention_mask=True, return_tensors="pt")
        whole = read(text, return_tensors="pt").input_ids
        if whole.shape[1] > length:
            cut = read.decode(whole[0, length - 1 : -1])
            warnings.warn(f"the prompt is longer than the {length} tokens that '{tokenizer}' reads; left out: '{cut}'", stacklevel=2)
        mask: Tensor = told.attention_mask.bool()
        if not mask.any():  # an empty text of a tokenizer that marks neither end
            mask[:, 0] = True
        return told.input_ids, mask

    def part(self, role: str, device: torch.device) -> Any:
        """Return a part by its role, as `text_encoder` or `tokenizer_2`: an encoder in fp32 and on the device."""
        if role not in self._loaded:
            self._loaded[role] = self._load(role)
        part = self._loaded[role]
        return part.to(device) if hasattr(part, "parameters") else part

    def _load(self, role: str) -> Any:
        spec = self.spec
        if spec.source is None:
            raise CheckpointError(f"prompt '{spec.kind}' names no encoders; set prompt.source to a folder or repository that has them")
        folder = self.folder_of(role)
        options = ({"subfolder": folder} if folder else {}) | ({"revision": spec.revision} if spec.revision else {})
        try:
            part = self.opened(role, options)
        except ImportError as error:
            raise CheckpointError(f"text encoders need transformers; install it with pip install 'ditzoo[text]' ({error})") from error
        except (OSError, ValueError, KeyError) as error:
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            if role.startswith("tokenizer") and find_spec("sentencepiece") is None:
                cause += " (files such as T5's need sentencepiece: pip install 'ditzoo[text]')"
            raise CheckpointError(f"'{spec.source}' has no {role} that can be opened: {cause}{self.without(role)}") from error
        return part.float().eval().requires_grad_(False) if hasattr(part, "parameters") else part


def stacked(states: Sequence[States], like: Tensor) -> Cond:
    """Return prompts under each other, a row each, in the device and precision of `like`; shorter ones are padded with masked tokens."""
    rows = [
        Cond(one.pooled[None].to(like), one.tokens[None].to(like), None if one.mask is None else one.mask[None].to(like.device))
        for one in states
    ]
    return Cond.cat(rows)
