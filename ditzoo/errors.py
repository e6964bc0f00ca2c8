"""The exceptions that a person can cause, and the sentences that they are told in.

Every error of ditzoo names the thing, the value found and the way out, in one line. The command line prints
that line and exits with 2; in Python they all derive from `DitzooError`. Invariants of our own are `assert`s.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class DitzooError(Exception):
    """Base of everything that ditzoo raises on purpose."""


class SpecError(DitzooError, ValueError):
    """A declaration that is wrong in itself or whose parts do not fit together."""


class UnknownNameError(SpecError, LookupError):
    """A model, kind, field or label that nothing installed knows."""


class PluginError(DitzooError):
    """A plugin that cannot be loaded or that breaks a rule of the zoo."""


class CheckpointError(DitzooError):
    """A weights file, or a training checkpoint, that is missing, damaged or of another model."""


class HubError(DitzooError):
    """A hub repository that is not there, not to be had, or not in the cache."""


class LayoutError(CheckpointError):
    """A checkpoint or model that a layout cannot hold, or a layout that has to be named."""


class LockError(DitzooError):
    """Something that is not what the lock says."""


class DataError(DitzooError):
    """A dataset that is missing or does not hold what it should."""


class SamplingError(DitzooError, ValueError):
    """A request for samples that this model cannot serve."""


class TrainingError(DitzooError):
    """A training run that cannot start or go on."""


class EvaluationError(DitzooError):
    """An evaluation that cannot start or go on, or whose parts are not what its protocol says."""


class OutputError(DitzooError, OSError):
    """A file or folder that cannot be written."""


class PluginWarning(UserWarning):
    """A plugin was left out; the program goes on without it."""


class DataWarning(UserWarning):
    """A picture was left out; another stands in for it."""


class SamplingWarning(UserWarning):
    """A request is served otherwise than one might think."""


def suggest(word: object, options: Iterable[str], *, limit: int = 3) -> str:
    """Return `"; did you mean 'a' or 'b'?"` for the options near `word`, or an empty string."""
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(str(word).lower(), list(by_lower), n=limit, cutoff=0.6)
    if not near:
        return ""
    return "; did you mean " + " or ".join(f"'{by_lower[name]}'" for name in near) + "?"


def listed(options: Iterable[object], *, limit: int = 12) -> str:
    """Return options as `a, b, c`, cut after `limit` with a count of the rest."""
    words = [str(option) for option in options]
    if not words:
        return "none"
    return ", ".join(words[:limit]) + (f", and {len(words) - limit} more" if len(words) > limit else "")


def explain(error: ValidationError, source: str) -> SpecError:
    """Turn pydantic's report into one `SpecError`, a line for each problem: `source: path: what is wrong`."""
    lines = []
    for problem in error.errors(include_url=False):
        path = ".".join(str(step) for step in problem["loc"])
        message = problem["msg"]
        if problem["type"] not in ("ditzoo", "value_error"):
            found = problem.get("input")
            message = message[0].lower() + message[1:]
            if not isinstance(found, dict) and problem["type"] != "missing":
                message += f", found {found!r}"
        message = message.removeprefix("Value error, ")
        lines.append(": ".join(word for word in (source, path, message) if word))
    return SpecError("\n".join(dict.fromkeys(lines)))
