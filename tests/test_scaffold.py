"""From `ditzoo new-plugin` to a picture: written, installed by pip, checked, sampled; each slot that has a template."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import install, refused, run_ditzoo

from ditzoo.scaffold import EXAMPLE


@pytest.mark.parametrize("slot", EXAMPLE)
def test_a_new_plugin_installs_conforms_and_draws(slot, tmp_path):
    name, folder = f"my-{slot}", tmp_path / "written"
    made = run_ditzoo("new-plugin", name, "--slot", slot, "--out", folder)
    assert made.returncode == 0, made.stderr
    install(folder, tmp_path / "site")
    env = {"PYTHONPATH": str(tmp_path / "site")}
    assert name in run_ditzoo("plugins", env=env).stdout
    checked = run_ditzoo("check", name, env=env)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"ok    {slot} {name}: " in checked.stdout
    drawn = run_ditzoo("sample", folder / "example.toml", "--random-weights", "--out", tmp_path / "drawn", env=env)
    assert drawn.returncode == 0, drawn.stderr
    assert len(list((tmp_path / "drawn").glob("0*.png"))) == 4
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(folder / "tests")],
        cwd=folder,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout


def test_what_cannot_be_written_is_told(tmp_path, capsys, monkeypatch):
    assert "'My_Plugin' is no name for a plugin; small letters" in refused(
        capsys, monkeypatch, "new-plugin", "My_Plugin", "--slot", "sampler", "--out", tmp_path / "a"
    )
    (tmp_path / "kept.txt").write_text("mine")
    told = refused(capsys, monkeypatch, "new-plugin", "mine", "--slot", "sampler", "--out", tmp_path)
    assert "is not empty; choose another with --out" in told
    assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
