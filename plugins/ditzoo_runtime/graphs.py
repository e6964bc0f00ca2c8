"""The runtime of CUDA graphs: the kernels of a run of blocks are recorded once and sent to the GPU as one.

A small batch keeps a GPU waiting for Python, which names its kernels one by one; a graph names them all at once. Kernels and results are
those of the runtime within.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from ditzoo.interfaces import Backbone, Runtime, Stream
from ditzoo.views import before, hooked, view

KEPT = 64  # graphs of a backbone: one each for a size, a batch and a range of blocks
Blocks = Callable[[Stream], Stream]


class Graphs(Runtime):
    """What another runtime prepares, its blocks recorded as CUDA graphs; on another device it is as it was."""

    def __init__(self, inner: Runtime) -> None:
        self.inner, self.records = inner, False

    def prepare(self, backbone: Backbone) -> Backbone:
        seen = self.inner.prepare(backbone)
        self.records = recordable(seen)
        if not self.records:
            return seen
        made = view(seen, lambda one: before(_Replayed, type(one)) if one is seen else None)
        made.recorded = Recorded()  # type: ignore[assignment]
        return made

    @property
    def told(self) -> str:
        return self.inner.told + (", as CUDA graphs" if self.records else "")


def recordable(backbone: Backbone) -> bool:
    """Say whether a backbone is on a CUDA device."""
    return torch.cuda.is_available() and next(backbone.parameters()).device.type == "cuda"


class _Replayed(nn.Module):
    """Comes before a class of backbones, whose blocks run as graphs from the second time that a size comes."""

    recorded: Recorded

    def run(self, stream: Stream, lo: int, hi: int) -> Stream:
        plain = super().run  # type: ignore[misc]
        watched = torch.is_grad_enabled() or torch.is_autocast_enabled("cuda") or torch.cuda.is_current_stream_capturing()
        own = stream.alone()  # modulations of other runs lie elsewhere: within a graph they are made anew
        graph = None
        if hi > lo and not watched and not hooked(self):
            graph = self.recorded.of((lo, hi), own, lambda given: plain(given, lo, hi))
        if graph is None:
            made: Stream = plain(stream, lo, hi)
            return made
        return graph.replay(own).in_run_of(stream)


class Recorded:
    """The graphs of a backbone, the latest `KEPT`; what is asked for once is not recorded, and what cannot be is not tried again."""

    def __init__(self) -> None:
        self.graphs: OrderedDict[Hashable, Graph | None] = OrderedDict()
        self.seen: set[Hashable] = set()
        self.pool: Any = None  # of memory, which all share: no two run at a time

    def of(self, blocks: tuple[int, int], stream: Stream, run: Blocks) -> Graph | None:
        """Return the graph of some blocks for streams like this one; None where there is none, or none yet."""
        key = (blocks, kind_of(stream))
        if key in self.graphs:
            self.graphs.move_to_end(key)
            return self.graphs[key]
        if key not in self.seen:
            self.seen.add(key)
            return None
        try:
            graph = self.graphs[key] = Graph(stream, run, self.pool)
            self.pool = graph.pool
        except RuntimeError:  # blocks that wait for the GPU, or bring something to it: they run as they are
            self.graphs[key] = None
        while len(self.graphs) > KEPT:
            self.graphs.popitem(last=False)
        return self.graphs[key]


class Graph:
    """A recorded run of blocks. What comes in is copied to where the kernels read, and what they made is copied out."""

    def __init__(self, stream: Stream, run: Blocks, pool: Any) -> None:
        given = tensors(stream)
        apart = {id(tensor): tensor.clone() for tensor in given.values()}
        self.pool, self.reads = pool, {name: apart[id(tensor)] for name, tensor in given.items()}
        self.made = self.record(run, laid(stream, self.reads))
        self.writes = {name: one for name, one in tensors(self.made).items() if one is not self.reads.get(name)}

    def record(self, run: Blocks, stream: Stream) -> Stream:
        """Record a run; return what lies there after each replay."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run(stream)  # libraries choose their kernels and make their workspaces before anything is recorded
        torch.cuda.current_stream().wait_stream(aside)
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=self.pool):
            return run(stream)

    def launch(self) -> None:
        """Run what was recorded."""
        self.graph.replay()

    def replay(self, stream: Stream) -> Stream:
        """Run the blocks on a stream like the recorded one."""
        given = tensors(stream)
        for name, tensor in given.items():
            self.reads[name].copy_(tensor)
        self.launch()
        return laid(self.made, given | {name: tensor.clone() for name, tensor in self.writes.items()})


def tensors(stream: Stream) -> dict[str, Tensor]:
    """Return the tensors of a stream and of its prompt, by name."""
    own = {f.name: getattr(stream, f.name) for f in fields(stream)}
    said = {f"cond.{f.name}": getattr(stream.cond, f.name) for f in fields(stream.cond)}
    return {name: value for name, value in (own | said).items() if isinstance(value, Tensor)}


def laid(stream: Stream, held: dict[str, Tensor]) -> Stream:
    """Return a stream with other tensors, by name."""
    said = {name.removeprefix("cond."): tensor for name, tensor in held.items() if name.startswith("cond.")}
    own: dict[str, Any] = {name: tensor for name, tensor in held.items() if not name.startswith("cond.")}
    return replace(stream, cond=replace(stream.cond, **said), **own)


def kind_of(stream: Stream) -> Hashable:
    """Return what streams have alike that one graph serves: sizes, dtypes, and which names are of one tensor."""
    given = tensors(stream)
    first = {id(tensor): name for name, tensor in reversed(given.items())}
    alike = tuple((name, tuple(tensor.shape), tensor.dtype, first[id(tensor)]) for name, tensor in given.items())
    return alike, stream.grid, stream.packing, stream.shares
