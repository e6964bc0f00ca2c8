"""A plugin package to begin with: written from templates, it installs, passes the conformance kit, and draws. Imports no torch."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from ditzoo.errors import OutputError, PluginError, suggest
from ditzoo.files import writable_folder, write_text

# by slot: what the example model is made of beside the new part
EXAMPLE = {
    "backbone": '{ kind = "dit", width = 64, depth = 2, heads = 2, patch = 4, in_channels = 1, input_size = [28, 28] }',
    "conditioning": "adaln-zero",
    "schedule": "cosine",
    "sampler": "ddim",
}
NEW_BACKBONE = '{ kind = "@name@", width = 32, depth = 2, in_channels = 1, input_size = [12, 12] }'
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def new_plugin(name: str, slot: str, folder: Path) -> list[Path]:
    """Write the package of a plugin into a folder and return its files; raise `PluginError` or `OutputError` and write nothing."""
    if not NAME.fullmatch(name):
        raise PluginError(f"'{name}' is no name for a plugin; small letters, digits and single hyphens, as 'my-sampler'")
    if slot not in EXAMPLE:
        raise PluginError(f"no template for slot '{slot}'{suggest(slot, EXAMPLE)} (there are {', '.join(EXAMPLE)})")
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"'{folder}' is not empty; choose another with --out")
    module = "ditzoo_" + name.replace("-", "_")
    sources = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "example.toml": "example.toml",
        f"{module}/__init__.py": f"{slot}.init",
        f"{module}/{slot}.py": f"{slot}.work",
        "tests/test_conforms.py": "test_conforms.py",
    }
    words = {"name": name, "Name": "".join(word.capitalize() for word in name.split("-")), "module": module, "slot": slot}
    words = EXAMPLE | {slot: NEW_BACKBONE if slot == "backbone" else "@name@"} | words
    written = []
    for path, template in sources.items():
        text = files("ditzoo").joinpath("templates", f"{template}.txt").read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        writable_folder((folder / path).parent)
        write_text(folder / path, text)
        written.append(folder / path)
    return written
