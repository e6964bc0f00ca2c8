"""Checks of attention patterns and of positions over a grid."""

from __future__ import annotations

import math
import pickle
from functools import partial

import torch
from torch import Tensor

from ditzoo.interfaces import Pattern, Positions
from ditzoo.specs import AttentionSpec, PositionsSpec
from ditzoo.testing.findings import Checks, hold

GRIDS = ((4, 8, 8), (1, 6, 5), (7, 3, 4), (1, 1, 1))
BLOCKS = 4
WIDTH, HEADS, TRAINED = 48, 2, (4, 8, 8)


def attention_checks(spec: AttentionSpec) -> Checks:
    """Return the checks of a pattern of attention, on grids of all shapes."""
    pattern = spec.build()
    return {
        "every token is in one group": partial(_parted, pattern),
        "tokens of all places meet in some block": partial(_meet, pattern),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


def positions_checks(spec: PositionsSpec) -> Checks:
    """Return the checks of positions, for a network over (T, H, W)."""
    hold(spec.check(WIDTH, HEADS, 3) is None, f"they refuse width {WIDTH} with {HEADS} heads: {spec.check(WIDTH, HEADS, 3)}")
    positions = spec.build(WIDTH, HEADS, TRAINED)
    return {
        "have a row a token": partial(_rows, positions),
        "tell every two places apart": partial(_apart, positions),
        "are the same every time": partial(_same, positions),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


def _parted(pattern: Pattern) -> None:
    for grid in GRIDS:
        for block in range(BLOCKS):
            held = torch.cat([rows.flatten() for rows in pattern.groups(grid, block)]).sort().values
            whole = torch.arange(math.prod(grid))
            hold(torch.equal(held, whole), f"block {block} on a grid of {grid} has {len(held)} tokens in groups, of {len(whole)}")


def _meet(pattern: Pattern) -> None:
    """What one token says reaches every other, through as many blocks as are checked."""
    grid = (2, 4, 4)
    heard = torch.eye(math.prod(grid))
    for block in range(BLOCKS):
        looks = torch.zeros_like(heard)
        for rows in pattern.groups(grid, block):
            for row in rows:
                looks[row[:, None], row] = 1
        heard = looks @ heard
    hold(bool((heard > 0).all()), f"after {BLOCKS} blocks on a grid of {grid} some tokens have not heard of some others")


def _all(positions: Positions, grid: tuple[int, ...]) -> list[Tensor]:
    angles = positions.angles(grid)
    return [*positions.tables(grid).values(), *([] if angles is None else [angles])]


def _rows(positions: Positions) -> None:
    for grid in GRIDS:
        for table in positions.tables(grid).values():
            hold(table.shape == (math.prod(grid), WIDTH), f"on a grid of {grid} a table is {tuple(table.shape)}")
        angles = positions.angles(grid)
        wanted = (math.prod(grid), WIDTH // HEADS // 2)
        hold(angles is None or angles.shape == wanted, f"on a grid of {grid} angles are not {wanted}")


def _apart(positions: Positions) -> None:
    for grid in GRIDS[:3]:
        told = torch.cat([torch.cat([table.cos(), table.sin()], 1) for table in _all(positions, grid)], dim=1)
        near = torch.cdist(told.double(), told.double(), compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(1).min()
        hold(near > 1e-3, f"on a grid of {grid} two places are {float(near):.2g} apart")


def _same(positions: Positions) -> None:
    first = [table.clone() for table in _all(positions, GRIDS[0])]
    _all(positions, GRIDS[2])
    hold(all(map(torch.equal, first, _all(positions, GRIDS[0]))), "the same grid gets other positions the second time")
