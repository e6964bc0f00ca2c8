"""The working pieces: what each part's `build` returns, and the data that flows between them.

Shapes: B rows of a batch, C latent channels, N tokens, L prompt tokens, D width, `*S` the latent axes
((H, W) for an image, (T, H, W) for video).

Time `t` runs from 1 (noise) to 0 (data): `x_t = alpha(t) x_0 + sigma(t) eps`. Pixels are in [-1, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ditzoo.errors import SamplingError
from ditzoo.packing import Pack
from ditzoo.streams import Cond as Cond  # the records are part of the interfaces
from ditzoo.streams import Foreseen as Foreseen
from ditzoo.streams import Residual as Residual
from ditzoo.streams import Stream as Stream

if TYPE_CHECKING:
    from ditzoo.denoiser import Denoiser
    from ditzoo.noise import Noise
    from ditzoo.passes import Branch, Passes


@dataclass(frozen=True)
class Prediction:
    """One look at the data: x_0 and the noise that the network sees in x_t.

    `variance` is the learned interpolation of Improved DDPM (Nichol and Dhariwal 2021, eq. 15), 0 for the posterior's
    variance and 1 for beta, in log space; None where the network does not learn it. It is a fraction and not a
    variance because the two ends depend on the step that a sampler takes.
    """

    x0: Tensor  # (B, C, *S)
    eps: Tensor  # (B, C, *S)
    variance: Tensor | None = None  # (B, C, *S)


@dataclass(frozen=True)
class BlockParts:
    """What a backbone lends to the conditioning for one block: makers of its sub-layers, called as often as needed.

    `attention()` makes a module called as `attention(tokens, stream)`; `mlp()` one called as `mlp(tokens, stream)`; the stream is the
    one that enters the block.
    """

    width: int
    heads: int
    attention: Callable[[], nn.Module]
    mlp: Callable[[], nn.Module]
    eps_attention: float = 1e-6
    eps_mlp: float = 1e-6
    index: int = 0  # which block, of how many
    count: int = 1


class Conditioning(nn.Module, ABC):
    """How time and prompt reach the tokens: it makes the blocks and the head's modulation of a backbone.

    `constant_cost` is false where the multiply-adds of a block depend on more than the size.
    """

    constant_cost: bool = True

    @abstractmethod
    def block(self, parts: BlockParts) -> nn.Module:
        """Make the module that runs one block: `Stream -> Stream`.

        A block whose tokens meet in its `attention` alone says so by an attribute `tokens_apart = True`, and asks `stream.length` for
        the number of a row's tokens: then processes may share them out, and give it a part.
        """

    @abstractmethod
    def head_norm(self, width: int, eps: float = 1e-6) -> nn.Module:
        """Make the norm before the head's linear layer, called as `norm(tokens, stream)`."""

    def vector(self, time: Tensor, cond: Cond) -> Tensor | None:
        """Make the vector (B, D) that modulates of embedded time (B, D) and prompt; None where nothing is modulated."""
        return None

    def enter(self, stream: Stream) -> Stream:
        """Prepare the stream for the first block: add tokens, or make the vector that modulates, if it is not there."""
        return stream if stream.vec is not None else replace(stream, vec=self.vector(stream.time, stream.cond))

    def leave(self, stream: Stream) -> Stream:
        """Undo on the way to the head what `enter` added to the tokens."""
        return stream


class Backbone(nn.Module, ABC):
    """A network over tokens as pure functions; no state between calls, no guidance inside.

    `run(0, a)` then `run(a, b)` equals `run(0, b)` bit for bit. `exits` are the depths that its own head is trained to
    read, if it has such; `given_exits` read others, and are a part of the model beside it. `stages` are the depths at
    which the stream's layout changes (none by default).
    """

    blocks: nn.ModuleList
    exits: tuple[int, ...] = ()
    stages: tuple[int, ...] = ()
    head_modules: tuple[str, ...] = ()  # names of the modules that `head` uses and nothing else does
    constant_cost: bool = True  # the multiply-adds of a row depend on its size alone

    def __init__(self) -> None:
        super().__init__()
        self.given_exits: Exits | None = None

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @abstractmethod
    def begin(self, x: Any, t: Tensor, cond: Cond) -> Stream:
        """Make tokens of latents x (B, C, *S), or of what `pack` made, at model time t (B,), rows of which may differ."""

    def pack(self, clips: Sequence[Tensor]) -> Pack:
        """Lay clips (C, *S) of several sizes out as `begin` takes them in place of x, where the spec provides `packs`."""
        raise NotImplementedError(f"{type(self).__name__} takes batches of one size alone")

    def foresee(self, t: Tensor, cond: Cond, size: Sequence[int]) -> Foreseen | None:
        """Return what a stream of latents of `size` needs of model times t (B,) and prompts alone, so that a run computes it for all of
        its looks at once; None where only `begin` can tell, as by default. A backbone that has this has `begin_with` too, and a subclass
        that overrides `begin` alone is not asked.
        """
        return None

    def begin_with(self, x: Tensor, cond: Cond, foreseen: Foreseen) -> Stream:
        """Make what `begin` makes, of latents x (B, C, *S) and what was foreseen of their times and prompts, a row each."""
        raise NotImplementedError(f"{type(self).__name__} foresees something and cannot begin with it")

    @abstractmethod
    def head(self, stream: Stream, exit: int | None = None) -> Tensor:
        """Read the native prediction (B, C or 2C, *S); `exit` picks an exit's own parameters, if it has any."""

    def run(self, stream: Stream, lo: int, hi: int) -> Stream:
        """Run blocks [lo, hi)."""
        for block in islice(self.blocks, lo, hi):
            stream = block(stream)
        return stream

    def read(self, stream: Stream, depth: int | None = None) -> Tensor:
        """Read the native prediction out of a stream after `depth` blocks, None for all: by the exit given there, or by the head."""
        if depth is None or self.given_exits is None or depth not in self.given_exits.at:
            return self.head(stream, exit=depth)
        return self.given_exits(self, stream, depth)

    def forward(self, x: Tensor, t: Tensor, cond: Cond, depth: int | None = None) -> Tensor:
        return self.read(self.run(self.begin(x, t, cond), 0, self.depth if depth is None else depth), depth)


class Positions:
    """How tokens know their place in a grid: by what is added to them, by how queries and keys are turned, or by both."""

    def tables(self, grid: Sequence[int]) -> Mapping[int, Tensor]:
        """Return tables (N, D) by the number of the block before which each is added to the tokens."""
        return {}

    def angles(self, grid: Sequence[int]) -> Tensor | None:
        """Return the radians (N, head / 2) by which pairs of a head's query and key channels are turned, or None."""
        return None


class Pattern(ABC):
    """Which tokens of a grid look at which. Tokens beyond the grid are seen by all, and see all."""

    @abstractmethod
    def groups(self, grid: Sequence[int], block: int) -> Sequence[Tensor]:
        """Return indices (G, n) of tokens for a block: those of a row look at one another. Every token is in one row of one tensor."""


class Exits(nn.Module, ABC):
    """What reads a backbone's stream before its last block, at each of the depths `at`; its parameters are trained with the model."""

    at: tuple[int, ...]

    @abstractmethod
    def forward(self, backbone: Backbone, stream: Stream, depth: int) -> Tensor:
        """Read the native prediction (B, C or 2C, *S) out of the stream after `depth` blocks."""


class Runtime(ABC):
    """How a backbone is prepared to run where no gradients are asked for."""

    @abstractmethod
    def prepare(self, backbone: Backbone) -> Backbone:
        """Return a backbone that computes what `backbone` does, in its parameters and with its hooks.

        The one given stays as it is, so there is nothing to undo: to train or save, one uses it. It is called again once a module
        or a weight of it has changed.
        """

    @property
    def told(self) -> str:
        """What it is, in a few words, for tables of figures: after `prepare`, what it has chosen."""
        return type(self).__name__.lower()


class Prompt(nn.Module, ABC):
    """Turns what was asked for into `Cond`, and knows its null."""

    @abstractmethod
    def encode(self, items: Sequence[Any]) -> Cond:
        """Encode items as `PromptSpec.parse` returns them, a row each."""

    @abstractmethod
    def null(self, batch: int) -> Cond:
        """Return the prompt that asks for nothing."""

    def drop(self, items: Any, uniform: Tensor) -> Any:
        """Replace items by the null one for training, given `uniform` (B,) in [0, 1); by default none is."""
        return items


class Schedule(ABC):
    """Noise over time. Everything foreign (integer steps, scaled or reversed times) is converted here."""

    @property
    def count(self) -> int | None:
        """The number of trained noise levels where time is discrete, else None."""
        return None

    @abstractmethod
    def times(self, steps: int) -> Tensor:
        """Return (steps + 1,) float64 times, strictly falling, from noise to 0."""

    @abstractmethod
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at t, float64 in t's shape."""

    def time_at(self, half: Tensor) -> Tensor:
        """Return the times at which log(alpha / sigma) is `half`, float64 in its shape, by bisection; beyond the path its ends."""
        lo, hi = torch.zeros_like(half, dtype=torch.float64), torch.ones_like(half, dtype=torch.float64)
        for _ in range(60):
            middle = (lo + hi) / 2
            alpha, sigma = self.alpha_sigma(middle)
            noisier = alpha.log() - sigma.log() < half
            lo, hi = torch.where(noisier, lo, middle), torch.where(noisier, middle, hi)
        return (lo + hi) / 2

    def start(self, noise: Tensor, t: Tensor) -> Tensor:
        """Make x at the first time out of unit noise: the noise itself wherever alpha is about 0 and sigma about 1."""
        return noise

    @abstractmethod
    def model_time(self, t: Tensor) -> Tensor:
        """Return what the network is fed at t."""

    @abstractmethod
    def split(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        """Read the network's output at x and t (scalar or (B,)) as a prediction."""

    @abstractmethod
    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return what the network should put out in its first C channels at t (B,): the inverse of `split`."""

    @abstractmethod
    def draw(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers in [0, 1), (B,), into training times (B,)."""


class Spacing(ABC):
    """Which times of a schedule a run walks through."""

    @abstractmethod
    def times(self, schedule: Schedule, steps: int) -> Tensor:
        """Return (steps + 1,) float64 times, strictly falling, from the first that is walked to 0."""


class Denoise(Protocol):
    """What a sampler sees of the model at a scalar t; or, where the backbone provides `frame-times`, at a time for each frame (1, T)."""

    def __call__(self, x: Tensor, t: Tensor) -> Prediction: ...


class Sampler(ABC):
    """Walks from noise to data. No state is kept: one sampler may serve any number of runs at once."""

    @abstractmethod
    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        """Yield x after each step, from x at the first of `schedule.times(steps)` to data."""

    def evaluations(self, steps: int) -> int:
        """Return how often the denoiser is called in `steps` steps."""
        return steps

    def invert(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int) -> Iterator[Tensor]:
        """Yield x after each step from data back to noise: what `trajectory` would have come from."""
        raise SamplingError(f"sampler {type(self).__name__} cannot be walked backwards; use one that is deterministic: sampler.kind=euler")

    def prepare(self, denoiser: Denoiser) -> Denoiser:
        """Return the denoiser to use; a sampler with a depth policy of its own lays it in here."""
        return denoiser


class Evaluate(Protocol):
    """How the branches of a look are evaluated at x (B, C, *S) and scalar t: returns the native prediction of each."""

    def __call__(self, branches: Sequence[Branch], x: Tensor, t: Tensor) -> list[Tensor]: ...


class DepthPolicy(ABC):
    """How much of the backbone each look uses. No state is kept here: what a run remembers belongs to what `follow` returns."""

    @abstractmethod
    def follow(self, passes: Passes) -> Evaluate:
        """Return what evaluates the looks of one run, by the counted passes of its backbone."""


class Codec(ABC):
    """Pixels (B, 3 or 1, *S) in [-1, 1] to latents (B, C, *S) and back."""

    def open(self) -> Codec:
        """Load what coding needs and return self, so that what is missing is told before a long run and not after it."""
        return self

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor: ...

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor: ...


class Seen(NamedTuple):
    """What a feature network sees in pictures: features; class scores, features by place and attributes where it has them."""

    features: Tensor  # (B, D) fp32
    logits: Tensor | None  # (B, K) fp32
    patches: Tensor | None = None  # (B, F, *grid) fp32
    attributes: Tensor | None = None  # (B, A) the value of each attribute, by number
    frames: Tensor | None = None  # (B, T, F) fp32 of each frame of a clip by itself


class Features(ABC):
    """A frozen network by whose features pictures are compared. `sha256` is that of its weights, and goes into every report."""

    sha256: str

    @abstractmethod
    def see(self, pixels: Tensor) -> Seen:
        """Look at pixels (B, 3 or 1, *S) in [-1, 1]."""


@dataclass(frozen=True)
class Passage:
    """One pass of a training step, as extra losses see it. Of packed clips a row of out, target and weights is a patch."""

    streams: Mapping[int, Stream]  # after so many blocks, for the depths that losses name
    out: Tensor  # (B, C or 2C, *S) the native prediction
    target: Tensor  # (B, C, *S) what it should be
    weights: Tensor  # (B,) what the squared error of each row weighs
    pixels: Tensor  # (B, 3 or 1, *S) the clean pictures in [-1, 1]; none of packed clips
    backbone: Backbone
    prompt: Prompt
    counts: Tensor | None = None  # what an element's error counts, to be broadcast over `target`; None: all count alike

    def squared(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return the mean squared error of each row (B,), over what counts."""
        return counted((found - wanted).square(), self.counts)


def counted(errors: Tensor, counts: Tensor | None) -> Tensor:
    """Return the mean of each row (B,) of errors (B, C, *S), weighed by what each counts."""
    return (errors if counts is None else errors * counts).flatten(1).mean(1)


class Loss(nn.Module, ABC):
    """An extra term of the training loss that looks into the backbone after the numbers of blocks in `depths`.

    Its parameters are trained with the model, kept in checkpoints, and no part of the finished model.
    """

    depths: tuple[int, ...]

    @abstractmethod
    def forward(self, passage: Passage) -> Tensor:
        """Return the term of each row of the prediction (B,)."""


class Dataset(Protocol):
    """Items by index: `{"pixels": (C, *S) float32 in [-1, 1], "item": what the prompt encodes}`; or `latents` in place of
    `pixels`, where the attribute `coded` is true.

    `names` are those of the classes, in the order of their labels; empty where items are no labels. A dataset that knows more of its
    items has `attributes` (N, A) by number, `values`, the names of each attribute's, and maybe `groups` of items, (N,) bool by name.
    One whose items have several sizes tells each without reading it: `size_of(index)`.
    """

    names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...
