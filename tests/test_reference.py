"""The reference pages are what the interfaces say, and the plugin tutorial's code runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import install, run_ditzoo

from ditzoo.reference import page
from ditzoo.specs import SLOTS

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("slot", SLOTS)
def test_the_reference_is_current(zoo, slot):
    assert (DOCS / "reference" / f"{slot}.md").read_text() == page(slot, zoo), "python -m ditzoo.reference docs/reference"


def test_the_tutorial_builds_a_plugin_that_works(tmp_path):
    """Its code blocks name their files in their first line; together they are the package that its commands use."""
    text = (DOCS / "tutorial.md").read_text()
    folder, blocks = tmp_path / "package", re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in blocks] == ["pyproject.toml", "ditzoo_midpoint.py", "test_midpoint.py"]
    for name, source in blocks:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    install(folder, tmp_path / "site")
    env = {"PYTHONPATH": str(tmp_path / "site")}
    checked = run_ditzoo("check", "midpoint", env=env)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "order of convergence" in checked.stdout
    drawn = run_ditzoo("sample", "fashion-dit", "-n", 2, "--set", "sampler.kind=midpoint", "--steps", 4, "--out", tmp_path / "o", env=env)
    assert drawn.returncode == 0, drawn.stderr
