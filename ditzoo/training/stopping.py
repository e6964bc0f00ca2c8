"""Being told to stop: SIGTERM, as schedulers send it, ends a run after its step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

import torch
from accelerate import Accelerator


class Stop:
    """Notes SIGTERM while its context lasts. `asked` answers alike in all processes, whichever of them got the signal."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.told = accelerator, False

    def __enter__(self) -> Stop:
        self.ours = threading.current_thread() is threading.main_thread()  # elsewhere signals cannot be taken
        if self.ours:
            self.before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.ours:
            signal.signal(signal.SIGTERM, self.before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.told = True

    def asked(self) -> bool:
        """Say whether any process was told to stop; every process has to ask, for it is one question to all."""
        if self.accelerator.num_processes == 1:
            return self.told
        flag = torch.tensor(float(self.told), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)
