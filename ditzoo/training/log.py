"""The log of a run: a CSV that a resumed run continues, a progress bar, and TensorBoard if asked for."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from ditzoo.errors import TrainingError
from ditzoo.files import write_text

BEFORE, AFTER = ("step", "epoch"), ("lr", "grad_norm", "skipped", "images_per_second", "gflops", "mfu", "memory_mb", "seconds")


class Log:
    """Rows in log.csv, with a column for each of `losses`. Rows after `step` that an interrupted run left behind are dropped."""

    def __init__(self, folder: Path, losses: Sequence[str], *, step: int, steps: int, tensorboard: bool, quiet: bool) -> None:
        self.path = folder / "log.csv"
        self.columns = (*BEFORE, *losses, *AFTER)
        kept = [row for row in self._rows() if int(row["step"]) <= step]
        self.seconds = float(kept[-1]["seconds"]) if kept else 0.0
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(kept)
        write_text(self.path, text.getvalue())
        self.file = self.path.open("a", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, self.columns)
        self.bar = tqdm(total=steps, initial=step, unit="step", file=sys.stderr, disable=True if quiet else None)
        self.board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise TrainingError("output.tensorboard needs TensorBoard: pip install 'ditzoo[tensorboard]'") from error

            self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if all(row.get(name) for name in self.columns)]

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a row; `seconds` since the last one become those since the run began."""
        self.seconds += values["seconds"]
        values = values | {"seconds": self.seconds}
        row = {name: f"{value:.6g}" for name, value in values.items()}
        self.writer.writerow({"step": step, **row})
        self.file.flush()
        self.bar.set_postfix(loss=f"{values['loss']:.4f}", images_s=f"{values['images_per_second']:.0f}")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()
        self.file.close()
        if self.board is not None:
            self.board.close()
