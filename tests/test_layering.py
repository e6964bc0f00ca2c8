"""The law of the tree: who may import whom, and that the wheel holds what the folders hold."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "ditzoo").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
TORCH_FREE = {
    "errors.py",
    "parts.py",
    "sizes.py",
    "inspecting.py",
    "specs.py",
    "model_spec.py",
    "preflight.py",
    "hookspecs.py",
    "zoo.py",
    "catalogue.py",
    "sources.py",
    "request.py",
    "placing.py",
    "cards.py",
    "files.py",
    "machine.py",
    "places.py",
    "pages.py",
    "hub.py",
    "hub_errors.py",
    "layouts.py",
    "repositories.py",
    "weight_files.py",
    "locks.py",
    "model_card.py",
    "publishing.py",
    "cli/moving.py",
    "training/recipe.py",
    "training/adapter.py",
    "training/mixing.py",
    "training/tables.py",
    "evaluation/protocol.py",
    "cli/measuring.py",
    "cli/authoring.py",
    "matrix.py",
    "scaffold.py",
    "cli/__init__.py",
    "cli/options.py",
    "cli/looking.py",
    "cli/making.py",
    "__init__.py",
}


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """The modules that a file imports: at its top, or anywhere; not those for type checkers alone."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))]
    nodes = ast.walk(tree) if everywhere else tree.body
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module or "" for node in (ast.walk(tree) if everywhere else tree.body) if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_knows_no_plugin(path):
    assert [name for name in imports(path, everywhere=True) if name.startswith("ditzoo_")] == []


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_plugin_knows_public_ditzoo_and_itself(path):
    for name in imports(path, everywhere=True):
        assert not name.startswith("ditzoo_") or name.split(".")[0] == path.parent.name, name
        assert "._" not in name, name


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in (*CORE, *PLUGINS)
        if p.name
        in (
            "spec.py",
            "specs.py",
            "codecs.py",
            "video_codecs.py",
            "latents_spec.py",
            "prompts.py",
            "schedules.py",
            "layouts.py",
            "configs.py",
            "inspection.py",
            "components.py",
            "diffusers_layout.py",
        )
        or p.name == "__init__.py"
        or str(p.relative_to(ROOT / "ditzoo") if p in CORE else "") in TORCH_FREE
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_specs_and_hooks_import_no_torch(path):
    heavy = {"torch", "numpy", "diffusers", "transformers", "accelerate", "safetensors", "einops", "PIL"}
    assert {name.split(".")[0] for name in imports(path, everywhere=False)} & heavy == set()


def test_no_ladders_over_kinds():
    for path in (*CORE, *PLUGINS):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq):
                compared = [ast.unparse(side) for side in (node.left, *node.comparators)]
                assert not (any(side.endswith("kind") for side in compared) and any(side.startswith(("'", '"')) for side in compared)), path


def test_packages_are_the_folders():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {"ditzoo_registry", "ditzoo_registry.recipes", "ditzoo_registry.protocols"} | {
        ".".join(path.parent.relative_to(base).parts)
        for base in (ROOT, ROOT / "plugins")
        for path in base.rglob("__init__.py")
        if path.is_relative_to(ROOT / "ditzoo" if base == ROOT else base)
    }
    assert set(table["packages"]) == folders


def test_the_wheel_works_with_the_source_hidden(tmp_path):
    source = tmp_path / "source"  # a copy, so that nothing is left in the tree and nothing stale gets in
    for name in ("ditzoo", "plugins", "registry"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for path in (ROOT / "registry").rglob("*"):
        if path.suffix in (".toml", ".json", ".safetensors"):
            assert (site / "ditzoo_registry" / path.relative_to(ROOT / "registry")).read_bytes() == path.read_bytes()
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if p and ('site-packages' in p or not p.startswith(sys.argv[2]))]; sys.path.insert(0, sys.argv[1])\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "import ditzoo; assert ditzoo.__file__.startswith(sys.argv[1]), ditzoo.__file__\n"
        "print(len(ditzoo.list()), ditzoo.spec('fashion-dit').name)"
    )
    done = subprocess.run([sys.executable, "-c", code, site, ROOT], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(list((ROOT / "registry").glob("*.toml")))), "fashion-dit"]
