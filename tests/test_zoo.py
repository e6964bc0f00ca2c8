"""Plugins: how they are found, and that a bad one never takes the program down."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Literal

import pluggy
import pytest
from conftest import run_ditzoo

from ditzoo.errors import PluginWarning, SpecError
from ditzoo.hookspecs import GROUP, hookimpl
from ditzoo.specs import SamplerSpec
from ditzoo.zoo import Zoo

GOOD = """
from typing import Literal
from ditzoo.hookspecs import hookimpl
from ditzoo.specs import SamplerSpec

class MySpec(SamplerSpec):
    kind: Literal["my-sampler"] = "my-sampler"

@hookimpl
def ditzoo_parts():
    return [MySpec]
"""


def install(folder: Path, name: str, source: str, dist: str | None = None) -> None:
    """Lay a plugin down as pip does: a module, and metadata with its entry point."""
    module = f"plugin_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{(dist or name).replace('-', '_')}-0.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist or name}\nVersion: 0.5\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}\n")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise RuntimeError('no such chip')", "RuntimeError: no such chip"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        (
            "from ditzoo.hookspecs import hookimpl\n@hookimpl\ndef ditzoo_prats(): return []",
            "unknown hook 'ditzoo_prats'; did you mean 'ditzoo_parts'",
        ),
        (GOOD.replace("my-sampler", "ddim"), "sampler kind 'ddim' is claimed by 'bad' (bad 0.5) and by 'diffusion' (ditzoo 0.1.0)"),
        (GOOD.replace("return [MySpec]", "return ['my-sampler']"), "'my-sampler' is not a part spec"),
        (GOOD.replace("return [MySpec]", "return None"), "TypeError"),
        (GOOD.replace('kind: Literal["my-sampler"] = "my-sampler"', "eta: float = 0"), "does not declare its kind"),
        (
            "from pathlib import Path\nfrom ditzoo.hookspecs import hookimpl\n@hookimpl\ndef ditzoo_catalogue(): return [Path('/none/such')]",
            "catalogue folder /none/such does not exist",
        ),
    ],
)
def test_a_bad_plugin_is_left_out_and_told_of(tmp_path, source, told):
    install(tmp_path, "bad", source)
    done = run_ditzoo(
        "sample", "fashion-dit", "--random-weights", "-n", 1, "--steps", 1, "--out", tmp_path / "out", env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == 0
    assert (tmp_path / "out" / "grid.png").is_file()
    warning = [line for line in done.stderr.splitlines() if line.startswith("warning: plugin 'bad' was left out")]
    assert len(warning) == 1
    assert told in warning[0]
    assert "Traceback" not in done.stderr


def test_a_failure_is_quoted_when_a_kind_is_asked_for(tmp_path):
    install(tmp_path, "bad", "raise RuntimeError('no such chip')")
    done = run_ditzoo("check", "fashion-dit", "--set", "sampler.kind=my-sampler", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert "no installed plugin offers sampler kind 'my-sampler'" in done.stderr
    assert "(plugin 'bad' was left out: bad 0.5 failed on import: RuntimeError: no such chip)" in done.stderr


def test_two_packages_of_one_plugin_name_are_both_named(tmp_path):
    install(tmp_path, "mine", GOOD, dist="first")
    other = tmp_path / "second-0.5.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: second\nVersion: 0.5\n")
    (other / "entry_points.txt").write_text(f"[{GROUP}]\nmine = plugin_mine\n")
    done = run_ditzoo("plugins", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0
    assert "plugin name 'mine' is taken by first 0.5; rename the entry point in second 0.5" in done.stderr
    assert "sampler: my-sampler" in done.stdout


def test_ditzoo_plugins_limits_what_loads():
    done = run_ditzoo("plugins", "--json", env={"DITZOO_PLUGINS": "dit, conditoning"})
    assert '"name": "dit"' in done.stdout
    assert '"name": "diffusion"' not in done.stdout
    assert (
        "plugin 'conditoning' was left out: DITZOO_PLUGINS names it, but no installed package has it; did you mean 'conditioning'"
        in done.stderr
    )
    assert '"plugins": []' in run_ditzoo("plugins", "--json", env={"DITZOO_PLUGINS": ""}).stdout


def test_installed_warns_in_python(tmp_path):
    install(tmp_path, "bad", "raise RuntimeError('no such chip')")
    code = "import warnings; warnings.simplefilter('error'); from ditzoo.zoo import Zoo; Zoo.installed()"
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert PluginWarning.__name__ in done.stderr


def test_a_zoo_holds_what_its_manager_holds_and_nothing_global():
    class LocalSpec(SamplerSpec):
        kind: Literal["local"] = "local"

    module = types.ModuleType("local")
    module.ditzoo_parts = hookimpl(lambda: [LocalSpec])  # type: ignore[attr-defined]
    module.ditzoo_parts.__name__ = "ditzoo_parts"
    manager = pluggy.PluginManager(GROUP)
    manager.register(module, name="local")
    assert Zoo(manager).part("sampler", "local") == LocalSpec()
    with pytest.raises(Exception, match="no installed plugin offers sampler kind 'local'"):
        Zoo(pluggy.PluginManager(GROUP)).part("sampler", "local")


def test_parts_given_as_instances_need_no_zoo(zoo):
    from ditzoo.model_spec import ModelSpec

    spec = zoo.spec("fashion-dit")
    again = ModelSpec(**{name: getattr(spec, name) for name in ModelSpec.model_fields})
    assert again == spec
    with pytest.raises(ValueError, match="needs a zoo"):
        ModelSpec.model_validate(spec.model_dump())
    with pytest.raises(SpecError):
        zoo.model({"name": "empty"})
