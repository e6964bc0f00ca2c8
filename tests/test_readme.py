"""What the README prints is what the commands print, and its code runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import install, run_ditzoo

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = re.findall(r"<!-- (ditzoo [^\n]+) -->\n(.*?)<!-- end -->", README, re.DOTALL)


@pytest.mark.parametrize(("command", "printed"), TABLES, ids=[command for command, _ in TABLES])
def test_tables_are_what_their_commands_print(command, printed):
    assert run_ditzoo(*shlex.split(command)[1:]).stdout == printed


def test_there_are_tables():
    assert len(TABLES) == 6


def test_the_figures_of_speed_are_those_that_were_kept():
    (printed,) = re.findall(r"<!-- python benchmarks/table.py docs/speed -->\n(.*?)<!-- end -->", README, re.DOTALL)
    command = [sys.executable, str(ROOT / "benchmarks" / "table.py"), str(ROOT / "docs" / "speed")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == printed


def test_python_in_the_readme_runs(tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sneaker.png").is_file()
    assert int(done.stdout.split()[0]) == 2 * 25 * 2 * 8  # samples, steps, branches of guidance, blocks


def test_the_tutorial_plugin_runs(tmp_path):
    blocks = re.findall(r"```(?:toml|python)\n# (\S+)\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"), re.DOTALL)
    package = tmp_path / "package"
    package.mkdir()
    for name, text in blocks:
        (package / name).write_text(text)
    with (package / "pyproject.toml").open("a") as file:
        file.write(
            '\n[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n[tool.setuptools]\npy-modules = ["ditzoo_euler"]\n'
        )
    install(package, tmp_path / "site")
    done = run_ditzoo(
        "sample",
        "fashion-dit",
        "--random-weights",
        "-n",
        2,
        "--steps",
        2,
        "--set",
        "sampler.kind=my-euler",
        "--out",
        tmp_path / "out",
        env={"PYTHONPATH": str(tmp_path / "site")},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "grid.png").is_file()


def test_links_and_pictures_exist():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
