"""Running a protocol: pictures drawn in chunks, seen by the network, stored; an interrupted run goes on where it was.

Picture i of a seed depends on (seed, i) alone and chunks are the protocol's, so any number of processes store the same chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ditzoo.assemble import Model, load_found
from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError, EvaluationError
from ditzoo.evaluation.kept import Kept
from ditzoo.evaluation.protocol import Expectation, Protocol
from ditzoo.evaluation.report import report, write
from ditzoo.files import claim, writable_folder
from ditzoo.interfaces import Dataset, Features
from ditzoo.locks import spec_sha256
from ditzoo.processes import processes
from ditzoo.sampling import sample
from ditzoo.shares import share
from ditzoo.sources import Found
from ditzoo.weights import save_weights

STATE_FILE, SHOWN = "evaluation.json", 64


@dataclass(frozen=True)
class Drawn:
    """What the network saw in a seed's pictures, and the class that each was asked for (N,)."""

    seen: Kept
    asked: Tensor


def evaluate(
    found: Found,
    protocol: Protocol,
    out: Path,
    *,
    expected: Expectation | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Measure a model by a protocol and return the report; `out` gets report.json, row.md, grid.png and the chunks.

    With the bands that a recipe promises (`expected`) the report says of each of their figures whether it is within.

    Run again in the same folder, it goes on where it was; a folder of another model or protocol is refused.
    """
    found = found.opened()
    protocol.check(found.spec)
    network = protocol.features.build()
    state = processes()
    identity = identify(found, protocol, network, dtype)
    if state.is_main_process:
        claim(writable_folder(out) / STATE_FILE, identity, "an evaluation of something else", EvaluationError)
    state.wait_for_everyone()
    todo = [(seed, first) for seed in protocol.seeds for first in range(0, protocol.count, protocol.chunk)]
    asking = protocol.asking()

    def begin() -> Callable[[tuple[int, int]], None]:
        model = load_found(found, dtype=dtype, device=device).prepare()
        return lambda job: _draw(model, network, protocol, out, *job, batch_size, asking)

    share(todo, lambda job: _chunk(out, *job) is not None, begin, what=f"samples of {found.spec.name}", unit="chunk")
    if not state.is_main_process:
        return {}
    drawn = {seed: gather(out, protocol, seed) for seed in protocol.seeds}
    made = report(found, protocol, drawn, identity)
    if expected is not None:
        made["bands"] = expected.verdict(made["mean"])
    write(made, found, protocol, drawn, out)
    return made


def identify(found: Found, protocol: Protocol, network: Features, dtype: str) -> dict[str, Any]:
    """Return what the figures depend on, by hash."""
    weights = found.weights()
    weights.fetch()
    return {
        "protocol": protocol.digest(),
        "spec": spec_sha256(found.spec),
        "weights": {name: found.place.sha256(name) for name in weights.names},
        "features": network.sha256,
        "dtype": dtype,
    }


def _path(out: Path, seed: int, first: int) -> Path:
    return out / f"seed-{seed}" / f"{first:07d}.safetensors"


def _chunk(out: Path, seed: int, first: int) -> dict[str, Tensor] | None:
    path = _path(out, seed, first)
    try:
        return open_file(path).tensors if path.is_file() else None
    except CheckpointError:  # cut off by a full disk, say: drawn again
        return None


def _draw(
    model: Model, network: Features, protocol: Protocol, out: Path, seed: int, first: int, batch_size: int | None, asking: Dataset | None
) -> None:
    count = min(protocol.chunk, protocol.count - first)
    if asking is None:
        asked = model.spec.prompt.default(first + count)[first:]
    else:
        asked = [asking[index]["item"] for index in range(first, first + count)]
    argument = model.spec.prompt.argument
    request: dict[str, Any] = {"num_images": count} if argument is None else {argument: asked}
    request |= protocol.size_of(first // protocol.chunk)
    drawn = sample(model, **request, seed=seed, first_index=first, output_type="pt", batch_size=batch_size or protocol.chunk)
    pixels = drawn.images.float() * 2 - 1
    with torch.no_grad():
        kept = Kept.of(network.see(pixels)).table()
    kept["asked"] = torch.tensor([item if isinstance(item, int) else -1 for item in drawn.items])
    if first < SHOWN:
        kept["pictures"] = (drawn.images[: SHOWN - first] * 255).round().to(torch.uint8)
    save_weights(kept, _path(out, seed, first))


def gather(out: Path, protocol: Protocol, seed: int) -> Drawn:
    """Return what an evaluation in the folder `out` has stored of a seed."""
    parts = [_chunk(out, seed, first) for first in range(0, protocol.count, protocol.chunk)]
    if any(part is None for part in parts):
        raise EvaluationError(f"chunks of seed {seed} are missing in '{out}': a process died; run the same command again")
    whole = [part for part in parts if part is not None]
    return Drawn(Kept.cat([Kept.read(part) for part in whole]), torch.cat([part["asked"] for part in whole]))
