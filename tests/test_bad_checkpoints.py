"""Damaged, foreign and hostile checkpoints on this machine: one sentence each, no partial model, no traceback."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import refused, tiny, wake
from safetensors.torch import load_file, save_file

import ditzoo
from ditzoo.assemble import build
from ditzoo.conversion import translated
from ditzoo.errors import DitzooError


@pytest.fixture(scope="module")
def models(zoo, tmp_path_factory):
    """A tiny DiT as ditzoo's folder, as shards of it, and its tensors in the published layout."""
    root = tmp_path_factory.mktemp("models")
    model = wake(build(zoo.model(tiny(backbone={"in_channels": 3, "depth": 3})))).requires_grad_(False)
    model.save_pretrained(root / "whole")
    model.save_pretrained(root / "shards", max_shard_size="20KB")
    (root / "dit.pt").write_bytes(b"")
    torch.save(translated(model, zoo.layout("original-dit")), root / "dit.pt")
    return root


def copied(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def rewritten(change):
    """A damage that changes the tensors of a safetensors file."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file(change({name: tensor.clone() for name, tensor in tensors.items()}), folder / "model.safetensors")

    return damage


def replaced(change):
    """A damage that changes the bytes of the weights file."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return damage


def indexed(change):
    """A damage that changes the index of shards."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        table = json.loads(path.read_text())
        changed = change(table)
        path.write_text(changed if isinstance(changed, str) else json.dumps(table))

    return damage


def moved(table):
    """Let the index put one key into another shard than it is in."""
    shards = sorted(set(table["weight_map"].values()))
    key = next(key for key, name in table["weight_map"].items() if name == shards[0])
    table["weight_map"][key] = shards[1]


def without(*words):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not any(word in name for word in words)}


DAMAGE = {
    "truncated": ("whole", replaced(lambda raw: raw[:-1000]), ["it is truncated:", "fetch it again"]),
    "truncated within the header": ("whole", replaced(lambda raw: raw[:100]), ["header is damaged", "fetch it again"]),
    "too long": ("whole", replaced(lambda raw: raw + b"more"), ["it is too long"]),
    "empty": ("whole", replaced(lambda raw: b""), ["it is empty; fetch it again"]),
    "garbage": ("whole", replaced(lambda raw: os.urandom(500)[:-1] + b"x"), ["cannot read", "fetch it again"]),
    "a web page": ("whole", replaced(lambda raw: b"<!DOCTYPE html><html>"), ["it is a web page, not weights; download the raw file"]),
    "a git-lfs pointer": (
        "whole",
        replaced(lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3"),
        ["it is a git-lfs pointer, not the file", "git lfs pull"],
    ),
    "a pickle in disguise": (
        "whole",
        replaced(lambda raw: b"PK\x03\x04pickled"),
        ["a PyTorch pickle under the name of a safetensors file"],
    ),
    "no file": (
        "whole",
        lambda folder: (folder / "model.safetensors").unlink(),
        ["no weights in local-dir:", "looked for model.safetensors"],
    ),
    "missing keys": (
        "whole",
        rewritten(without("attention.q", "head_linear")),
        ["8 missing: backbone.blocks.{0-2}.attention.q.bias, backbone.blocks.{0-2}.attention.q.weight, backbone.head_linear.bias"],
    ),
    "fewer blocks": ("whole", rewritten(without("blocks.1.", "blocks.2.")), ["missing: backbone.blocks.{1-2}.attention.k.bias"]),
    "unexpected keys": (
        "whole",
        rewritten(lambda tensors: tensors | {"projectors.0.weight": torch.zeros(3), "projectors.1.weight": torch.zeros(3)}),
        ["2 unexpected: projectors.{0-1}.weight"],
    ),
    "misshapen keys": (
        "whole",
        rewritten(lambda tensors: tensors | {"prompt.table.weight": torch.zeros(9, 32), "backbone.head_linear.bias": torch.zeros(5)}),
        ["2 of another shape: backbone.head_linear.bias is 5, model has 12, prompt.table.weight is 9x32, model has 6x32"],
    ),
    "whole numbers": (
        "whole",
        rewritten(lambda tensors: tensors | {"backbone.head_linear.bias": torch.zeros(12, dtype=torch.int8)}),
        ["1 of another type: backbone.head_linear.bias is torch.int8"],
    ),
    "a missing shard": (
        "shards",
        lambda folder: (folder / "model-00002-of-00016.safetensors").unlink(),
        ["lacks 1 of the 16 shards", "model-00002-of-00016.safetensors", "copy the folder again"],
    ),
    "a damaged shard": (
        "shards",
        lambda folder: (folder / "model-00002-of-00016.safetensors").write_bytes(b"<html>"),
        ["model-00002-of-00016.safetensors: it is a web page"],
    ),
    "an index that climbs": (
        "shards",
        indexed(lambda table: table["weight_map"].update({"backbone.head_linear.bias": "../../secret.safetensors"})),
        ["puts backbone.head_linear.bias into '../../secret.safetensors'", "do not trust"],
    ),
    "an index with an absolute path": (
        "shards",
        indexed(lambda table: table["weight_map"].update({"backbone.head_linear.bias": "/etc/model.safetensors"})),
        ["into '/etc/model.safetensors'", "do not trust"],
    ),
    "an index with a drive": (
        "shards",
        indexed(lambda table: table["weight_map"].update({"backbone.head_linear.bias": "C:model.safetensors"})),
        ["into 'C:model.safetensors'", "do not trust"],
    ),
    "an index to another format": (
        "shards",
        indexed(lambda table: table["weight_map"].update({"backbone.head_linear.bias": "evil.bin"})),
        ["into 'evil.bin', which is no .safetensors file", "do not trust"],
    ),
    "an index that lies": ("shards", indexed(moved), ["model.safetensors.index.json", "lies about", "in it and not told:"]),
    "an index of an unknown key": (
        "shards",
        indexed(lambda table: table["weight_map"].update({"none.weight": table["weight_map"]["backbone.head_linear.bias"]})),
        ["lies about", "not in it: none.weight"],
    ),
    "an index without a map": ("shards", indexed(lambda table: table.pop("weight_map") and None), ["has no weight_map from keys to files"]),
    "an index of numbers": (
        "shards",
        indexed(lambda table: table["weight_map"].update({"backbone.head_linear.bias": 7})),
        ["into '7', which is not a plain file"],
    ),
    "an index that is a list": ("shards", indexed(lambda table: "[]"), ["holds a list where a table is expected"]),
    "an index that is no JSON": ("shards", indexed(lambda table: "{"), ["cannot read model.safetensors.index.json of local-dir:"]),
    "a spec that is no JSON": ("whole", lambda folder: (folder / "ditzoo.json").write_text("{"), ["cannot read ditzoo.json of local-dir:"]),
    "a spec of another hash": (
        "whole",
        lambda folder: (folder / "ditzoo.json").write_text(
            (folder / "ditzoo.json").read_text().replace('"sha256": null', f'"sha256": "{"0" * 64}"')
        ),
        [f"the spec says {'0' * 64}; fetch the file again"],
    ),
    "an unknown layout": (
        "whole",
        lambda folder: (folder / "ditzoo.json").write_text(
            (folder / "ditzoo.json").read_text().replace('"layout": "ditzoo"', '"layout": "original-dti"')
        ),
        ["no installed plugin offers checkpoint layout 'original-dti'", "did you mean", "'original-dit'"],
    ),
    "another layout": (
        "whole",
        lambda folder: (folder / "ditzoo.json").write_text(
            (folder / "ditzoo.json").read_text().replace('"layout": "ditzoo"', '"layout": "original-dit"')
        ),
        ["in layout 'original-dit'", "missing: blocks.{0-2}.adaLN_modulation.1.bias", "unexpected: backbone.blocks.{0-2}"],
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_folder_is_told(models, tmp_path, capsys, monkeypatch, case):
    start, damage, told = DAMAGE[case]
    folder = copied(models / start, tmp_path / "model")
    damage(folder)
    message = refused(capsys, monkeypatch, "sample", f"local-dir:{folder}", "--out", tmp_path / "out")
    for part in told:
        assert part in message
    with pytest.raises(DitzooError):
        ditzoo.load(f"local-dir:{folder}")
    assert not (tmp_path / "out" / "grid.png").exists()


class Evil:
    """A pickle that would run a command."""

    def __reduce__(self):
        return os.system, ("touch PWNED",)


def pickled(change, **options):
    """A checkpoint file with something else in it than a state dict."""

    def write(path: Path, state: dict[str, torch.Tensor]) -> None:
        torch.save(change(state), path, **options)

    return write


PICKLES = {
    "forbidden globals": (
        pickled(lambda state: {"w": torch.zeros(1), "x": Evil()}),
        ["it asks to run posix.system, which ditzoo never does"],
    ),
    "forbidden globals, old format": (
        pickled(lambda state: {"w": torch.zeros(1), "x": Evil()}, _use_new_zipfile_serialization=False),
        ["it asks to run posix.system", "do not trust"],
    ),
    "no torch pickle": (lambda path, state: path.write_bytes(pickle.dumps({"a": 1})), ["cannot read", "x.pt"]),
    "a truncated pickle": (lambda path, state: (torch.save(state, path), path.write_bytes(path.read_bytes()[:-3000])), ["it is truncated"]),
    "a zip of something else": (lambda path, state: zipfile.ZipFile(path, "w").writestr("a", "b"), ["cannot read", "no PyTorch file"]),
    "a tensor": (pickled(lambda state: torch.zeros(3)), ["holds a Tensor, and no state dict"]),
    "numbers": (pickled(lambda state: {"a": 1, "b": 2}), ["holds a table of a, b, and no state dict"]),
    "an unknown wrapper": (pickled(lambda state: {"net": state, "step": 3}), ["holds a table of net, step", "set weights.entry"]),
    "a network of another sort": (
        pickled(lambda state: {"conv_in.weight": torch.zeros(3), "time_embedding.linear_1.weight": torch.zeros(3)}),
        ["is in no layout that is installed", "conv_in.weight"],
    ),
    "nearly a DiT": (
        pickled(lambda state: {k: v for k, v in state.items() if not k.startswith("y_embedder")}),
        ["the nearest is 'original-dit', which also has y_embedder.embedding_table.weight"],
    ),
    "DiT or SiT": (
        pickled(lambda state: state),
        ["the keys of x.pt are the same in the layouts 'original-dit' and 'original-sit'", "weights.layout=original-sit"],
    ),
}


@pytest.mark.parametrize("case", PICKLES)
def test_a_pickle_is_read_as_data_or_refused(models, tmp_path, capsys, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    write, told = PICKLES[case]
    state = torch.load(models / "dit.pt", weights_only=True)
    write(tmp_path / "x.pt", state)
    message = refused(capsys, monkeypatch, "convert", "local-file:x.pt", "out", "--to", "ditzoo")
    for part in told:
        assert part in message
    assert not (tmp_path / "PWNED").exists()
    assert not (tmp_path / "out").exists()


SETTINGS = ["weights.layout=original-dit", "backbone.heads=2", "codec.kind=pixels"]
DETAILS = {
    "heads": (SETTINGS[:1], lambda state: None, ["keys do not tell the number of heads, and width 32 is none of the paper's"]),
    "a codec": (SETTINGS[:2], lambda state: None, ["keys do not tell the codec of 3 channels"]),
    "a trained position table": (
        SETTINGS,
        lambda state: state["pos_embed"].mul_(2),
        ["pos_embed (1x16x32) is the sine-cosine table of no grid of 16 tokens"],
    ),
    "a gap in the blocks": (
        SETTINGS,
        lambda state: [state.pop(k) for k in list(state) if k.startswith("blocks.1.")],
        ["blocks 1 are absent"],
    ),
    "a half block": (SETTINGS, lambda state: state.pop("blocks.1.mlp.fc2.bias"), ["1 missing: blocks.1.mlp.fc2.bias"]),
    "an entry that is not there": (
        [*SETTINGS, "weights.entry=emma"],
        lambda state: None,
        ["weights.entry is 'emma', but", "it is a bare state dict"],
    ),
    "the wrong depth": (
        [*SETTINGS, "backbone.depth=5"],
        lambda state: None,
        ["missing: blocks.{3-4}.adaLN", "The checkpoint looks like backbone.depth=3 (spec: 5)"],
    ),
}


@pytest.mark.parametrize("case", DETAILS)
def test_what_a_checkpoint_lacks_is_named(models, tmp_path, case):
    settings, change, told = DETAILS[case]
    state = {name: tensor.clone() for name, tensor in torch.load(models / "dit.pt", weights_only=True).items()}
    change(state)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(DitzooError) as refused:
        ditzoo.load(f"local-file:{tmp_path / 'x.pt'}", settings=settings)
    for part in told:
        assert part in str(refused.value)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "ema", "module"])
def test_known_wrappers_are_taken_off_and_told(models, tmp_path, zoo, wrapper):
    from ditzoo.sources import resolve

    state = torch.load(models / "dit.pt", weights_only=True)
    torch.save({wrapper: {f"module.{name}": tensor for name, tensor in state.items()}, "args": argparse.Namespace(lr=1)}, tmp_path / "x.pt")
    name = f"local-file:{tmp_path / 'x.pt'}"
    model = ditzoo.load(name, settings=SETTINGS)
    assert torch.equal(model.state_dict()["prompt.table.weight"], state["y_embedder.embedding_table.weight"])
    notes = "\n".join(resolve(name, zoo, SETTINGS).notes)
    assert f"took '{wrapper}' out of x.pt, which also holds args" in notes
    assert "took the prefix 'module.' off every key" in notes


def test_nothing_is_left_on_meta_after_any_load(models):
    for folder in ("whole", "shards"):
        model = ditzoo.load(f"local-dir:{models / folder}")
        assert not any(value.is_meta for value in (*model.parameters(), *model.buffers()))
