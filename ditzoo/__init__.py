"""ditzoo: diffusion transformers by name, from parts that compose. Importing this imports no torch."""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ditzoo.assemble import Model, build, load
    from ditzoo.errors import DitzooError
    from ditzoo.model_spec import ModelSpec
    from ditzoo.sampling import Samples
    from ditzoo.zoo import Zoo

__version__ = "0.1.0"
__all__ = ["DitzooError", "Model", "ModelSpec", "Samples", "Zoo", "build", "list", "load", "spec"]

_HOMES = {
    "Model": "assemble",
    "build": "assemble",
    "load": "assemble",
    "DitzooError": "errors",
    "Samples": "sampling",
    "ModelSpec": "model_spec",
    "Zoo": "zoo",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        collecting = gc.isenabled()
        gc.disable()  # importing torch makes a million objects that stay; looking for garbage among them takes 0.3 s
        try:
            return getattr(import_module(f"ditzoo.{_HOMES[name]}"), name)
        finally:
            if collecting:
                gc.enable()
    raise AttributeError(f"module 'ditzoo' has no attribute '{name}'")


def __dir__() -> Any:
    return sorted(__all__)


def list(pattern: str = "*") -> Any:
    """Return the names of the catalogue that match a wildcard pattern."""
    from ditzoo.zoo import Zoo

    return Zoo.installed().catalogue.names(pattern)


def spec(name: str, *settings: str) -> ModelSpec:
    """Return the model spec of a name, with `path.to.field=value` settings laid over it."""
    from ditzoo.zoo import Zoo

    return Zoo.installed().spec(name, settings)
