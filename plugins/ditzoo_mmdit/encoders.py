"""Frozen text encoders of transformers, each loaded when first asked; what they said is kept on disk, by what they are and were asked."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError
from ditzoo.evaluation.reference import cache_folder
from ditzoo.weights import save_weights
from ditzoo_mmdit.projected import States

if TYPE_CHECKING:
    from ditzoo_mmdit.sd3_text import Asked, SD3TextSpec

CLIPS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
T5 = ("tokenizer_3", "text_encoder_3")


class Encoders:
    """Two CLIPs and T5 under one source. They work in fp32: in fp16 T5 overflows."""

    def __init__(self, spec: SD3TextSpec) -> None:
        self.spec = spec
        self._loaded: dict[str, Any] = {}
        self._said: dict[Asked, States] = {}

    def free(self) -> None:
        """Let go of the encoders; what they said stays."""
        self._loaded.clear()

    @torch.no_grad()
    def states(self, asked: Asked, device: torch.device) -> States:
        """Return what the encoders say of a prompt, from memory or disk where it was said before."""
        if asked not in self._said:
            self._said[asked] = self._kept(asked, device)
        return self._said[asked]

    def _kept(self, asked: Asked, device: torch.device) -> States:
        path = cache_folder() / "prompts" / f"{self._key(asked)}.safetensors"
        if path.is_file():
            try:
                held = open_file(path).tensors
                return States(held["pooled"].clone(), held["tokens"].clone())
            except (CheckpointError, KeyError):  # a cache is only a saving: what is damaged is made again
                pass
        made = self._made(asked, device)
        save_weights(made._asdict(), path)
        return made

    def _key(self, asked: Asked) -> str:
        spec, digest = self.spec, hashlib.sha256()
        for word in (*asked, spec.source, spec.revision, spec.clip_length, spec.t5_length if spec.t5 else 0, spec.states):
            digest.update(f"{word!r}\n".encode())
        if spec.source is not None and Path(spec.source).expanduser().is_dir():  # a folder may change; a commit does not
            for file in sorted(Path(spec.source).expanduser().glob("t*/*")):
                stamp = file.stat()
                digest.update(f"{file.name} {stamp.st_size} {stamp.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _made(self, asked: Asked, device: torch.device) -> States:
        spec, pooled, tokens = self.spec, list[Tensor](), list[Tensor]()
        for text, (tokenizer, encoder) in zip(asked[:2], CLIPS, strict=True):
            told = self._part(encoder, device)(self._ids(tokenizer, text, spec.clip_length).to(device), output_hidden_states=True)
            pooled.append(told[0][0])
            tokens.append(told.hidden_states[-2][0])
        both = torch.cat(tokens, dim=-1)  # (77, 768 + 1280)
        if both.shape[1] > spec.states or torch.cat(pooled).shape[0] != spec.pooled:
            raise CheckpointError(
                f"the CLIPs of '{spec.source}' say {both.shape[1]} numbers a token and {torch.cat(pooled).shape[0]} pooled; "
                f"prompt.states={spec.states} and prompt.pooled={spec.pooled} do not fit them"
            )
        padded = torch.nn.functional.pad(both, (0, spec.states - both.shape[1]))
        if spec.t5:
            late = self._part(T5[1], device)(self._ids(T5[0], asked.t5, spec.t5_length).to(device))[0][0]
        else:
            late = padded.new_zeros(spec.t5_length, spec.states)
        if not torch.isfinite(late).all():
            raise CheckpointError("T5 overflowed; it has to work in fp32 or bf16")
        return States(torch.cat(pooled).cpu(), torch.cat([padded, late]).cpu())

    def _ids(self, tokenizer: str, text: str, length: int) -> Tensor:
        read = self._part(tokenizer, torch.device("cpu"))
        ids = read(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        whole = read(text, return_tensors="pt").input_ids
        if whole.shape[1] > length:
            cut = read.decode(whole[0, length - 1 : -1])
            warnings.warn(f"the prompt is longer than the {length} tokens that '{tokenizer}' reads; left out: '{cut}'", stacklevel=2)
        return ids

    def _part(self, folder: str, device: torch.device) -> Any:
        if folder not in self._loaded:
            self._loaded[folder] = self._load(folder)
        part = self._loaded[folder]
        return part.to(device) if hasattr(part, "parameters") else part

    def _load(self, folder: str) -> Any:
        spec = self.spec
        if spec.source is None:
            raise CheckpointError("prompt 'sd3-text' names no encoders; set prompt.source to a folder or repository that has them")
        loader = _loaders()[folder]
        options = {"subfolder": folder, **({"revision": spec.revision} if spec.revision else {})}
        try:
            part = loader(spec.source, **options)
        except (OSError, ValueError) as error:
            without = "; set prompt.t5=false to go on without it, at the cost of long prompts and written words" if folder in T5 else ""
            raise CheckpointError(f"'{spec.source}' has no {folder} that can be opened: {str(error).splitlines()[0]}{without}") from error
        return part.float().eval().requires_grad_(False) if hasattr(part, "parameters") else part


def _loaders() -> dict[str, Callable[..., Any]]:
    try:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel
    except ImportError as error:
        raise CheckpointError("text encoders need transformers; install it with pip install 'ditzoo[text]'") from error
    tokenizers = dict.fromkeys(("tokenizer", "tokenizer_2", "tokenizer_3"), AutoTokenizer.from_pretrained)
    clip = CLIPTextModelWithProjection.from_pretrained
    return {**tokenizers, "text_encoder": clip, "text_encoder_2": clip, "text_encoder_3": T5EncoderModel.from_pretrained}
