"""What this machine's processor is, without torch."""

from __future__ import annotations

import platform
from pathlib import Path

TOLD = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16", "i8mm")  # what products of matrices are made of


def processor() -> str:
    """Return the processor's name as Linux tells it, or its kind."""
    return next((value for name, value in _described() if name == "model name"), platform.processor() or platform.machine())


def instructions() -> list[str]:
    """Return which of `TOLD` the processor has, as Linux tells it."""
    has = next((value.split() for name, value in _described() if name in ("flags", "Features")), [])
    return [name for name in TOLD if name in has]


def available_bytes() -> int | None:
    """Return how much memory can be had without swapping, as Linux tells it; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _described() -> list[tuple[str, str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines if ":" in line)
    return [(name.strip(), value.strip()) for name, _, value in pairs]
