"""What the environment says of the processes that a launcher (accelerate, torchrun) started. Imports no torch."""

from __future__ import annotations

import os


def speaks() -> bool:
    """Say whether this process speaks and writes for all that were started together: it is the first, or the only one."""
    return not int(os.environ.get("RANK", "0"))
