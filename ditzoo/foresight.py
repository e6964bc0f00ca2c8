"""What a run knows of its looks before they come: their times and prompts. It is embedded for all of them at once, and so are modulations.

All rows of a look share its time, and pictures of one label its prompt, so there are as many vectors that modulate as there are times
times distinct prompts: for a batch of 64 guided pictures of ten classes 11 a look, not 128.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ditzoo.interfaces import Backbone, Schedule
from ditzoo.streams import Ahead, Cond, Foreseen

MOST_BYTES = 2**26  # of modulations that are held at once; a run of more goes through its times in windows
VECTORS = 6  # that a block makes of one, about: adaLN-Zero's shifts, scales and gates


class Foresight:
    """The looks of one run under a schedule that it walks in `steps`."""

    def __init__(self, backbone: Backbone, schedule: Schedule, steps: int) -> None:
        self.backbone, self.schedule = backbone, schedule
        self.times: list[float] = schedule.times(steps)[:-1].tolist()
        self.foresees = foresees(type(backbone))
        self._conds: dict[int, tuple[Cond, Tensor]] = {}  # each with the places of its rows among the prompts
        self._looked: dict[tuple[int, ...], Tensor] = {}  # the places of those that were looked at together
        self._prompts: dict[tuple[bytes, ...], int] = {}
        self._rows: list[Cond] = []  # one row each
        self._windows: dict[bool, Window] = {}

    def look(self, x: Tensor, t: Tensor, conds: Sequence[Cond]) -> tuple[Foreseen, Ahead | None, Tensor] | None:
        """Return what was foreseen of a look at x (B, C, *S) at scalar t, a row for each of the conds' rows, and their places in what
        is computed ahead; None where the backbone foresees nothing.
        """
        if not self.foresees:
            return None
        key = tuple(map(id, conds))
        if key not in self._looked:
            known = len(self._rows)
            self._looked[key] = torch.cat([self._places(cond) for cond in conds])
            if len(self._rows) > known:
                self._windows.clear()  # of other prompts
        places = self._looked[key]
        walked = float(t) in self.times
        window = self._windows.get(walked)
        if window is None or float(t) not in window.times or window.size != tuple(x.shape[2:]):
            window = self._windows[walked] = self._open(t, x, walked)
        if window.foreseen is None:
            return None
        rows = places + window.times.index(float(t)) * len(self._rows)
        return window.foreseen.rows(rows), window.ahead, rows

    def _open(self, t: Tensor, x: Tensor, walked: bool) -> Window:
        """Embed t and as many of the times that follow as may be held, each with every prompt."""
        width = self._rows[0].vec.shape[1]
        held = len(self._rows) * VECTORS * width * self.backbone.depth * self._rows[0].vec.element_size()
        first = self.times.index(float(t)) if walked else 0
        times = self.times[first : first + max(1, MOST_BYTES // held)] if walked else [float(t)]
        fed = self.schedule.model_time(torch.tensor(times, dtype=torch.float64)).float().to(x.device)
        prompts = Cond.cat(self._rows)
        size = tuple(x.shape[2:])
        every = torch.arange(len(self._rows), device=x.device).repeat(len(times))
        foreseen = self.backbone.foresee(fed.repeat_interleave(len(self._rows)), prompts.rows(every), size)
        return Window(times, size, foreseen)

    def _places(self, cond: Cond) -> Tensor:
        """Return where each row's prompt is among the distinct ones (B,), which grow as new ones come."""
        if id(cond) not in self._conds:
            places = []
            for row in range(len(cond.vec)):
                one = cond.rows(slice(row, row + 1))
                said = tuple(_bytes(tensor) for tensor in (one.vec, one.tokens, one.mask) if tensor is not None)
                if said not in self._prompts:
                    self._prompts[said] = len(self._rows)
                    self._rows.append(one)
                places.append(self._prompts[said])
            self._conds[id(cond)] = cond, torch.tensor(places, device=cond.vec.device)
        return self._conds[id(cond)][1]


class Window:
    """Times that follow each other, and what was foreseen of them: rows by time, then by prompt."""

    def __init__(self, times: list[float], size: tuple[int, ...], foreseen: Foreseen | None) -> None:
        self.times, self.size, self.foreseen = times, size, foreseen
        self.ahead = Ahead(foreseen.vec) if foreseen is not None and foreseen.vec is not None else None


def foresees(cls: type[Backbone]) -> bool:
    """Say whether what a class foresees is what it begins with: one that overrides `begin` has to say `foresee` anew."""
    order = [next(place for place, one in enumerate(cls.__mro__) if name in vars(one)) for name in ("foresee", "begin")]
    return order[0] <= order[1]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes()
