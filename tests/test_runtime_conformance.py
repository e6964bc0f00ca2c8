"""The conformance kit on runtimes: the exact ones and the lossy one hold, and each way of being wrong is caught by its check."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch

from ditzoo.interfaces import Runtime
from ditzoo.specs import RuntimeSpec
from ditzoo.testing import check_part


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))


def failures(spec, zoo):
    return {one.check: one.told for one in check_part(spec, zoo) if not one.ok}


@pytest.mark.parametrize(
    "runtime", ["eager", "fused", "onednn", "auto", "int8-dynamic", {"kind": "by-rows", "inner": "fused"}], ids=str
)  # test_runtime.py compiles; here that would be the whole of the time
def test_a_runtime_conforms(zoo, runtime):
    found = list(check_part(zoo.part("runtime", runtime), zoo))
    assert {"computes what dit does", "computes what mmdit does", "calls the hooks of blocks"} <= {one.check for one in found}
    assert not [one for one in found if not one.ok]


class WrongSpec(RuntimeSpec):
    """A runtime that is wrong in the way that `how` says."""

    kind: Literal["wrong"] = "wrong"
    how: str

    def build(self):
        return {"rounds": Rounds, "copies": Copies, "overwrites": Overwrites, "remembers": Remembers, "mixes": Mixes, "silent": Silent}[
            self.how
        ]()


class Copies(Runtime):
    """What it prepares has weights and hooks of its own."""

    def prepare(self, backbone):
        made = copy.deepcopy(backbone)
        for module in made.modules():
            module._forward_hooks.clear()
        return made


class Rounds(Copies):
    def prepare(self, backbone):
        made = super().prepare(backbone)
        for p in made.parameters():
            p.data = p.data.bfloat16().float()
        return made


class Overwrites(Runtime):
    def prepare(self, backbone):
        for p in backbone.blocks.parameters():
            p.data = p.data.bfloat16().float()
        return backbone


class Remembers(Copies):
    """It prepares once, whatever it is asked for later."""

    made = None

    def prepare(self, backbone):
        if self.made is None:
            self.made = super().prepare(backbone)
        return self.made


class Mixes(Copies):
    def prepare(self, backbone):
        made = super().prepare(backbone)
        begin = made.begin
        made.begin = lambda x, t, cond: begin(x, t.mean().expand(len(t)), cond)
        return made


class Silent(Runtime):
    told = " "

    def prepare(self, backbone):
        return backbone


BROKEN = {
    "computes what dit does": "rounds",
    "runs on its parameters": "copies",
    "calls the hooks of blocks": "copies",
    "leaves the backbone as it is": "overwrites",
    "prepared anew it has the new weights": "remembers",
    "rows are apart": "mixes",
    "says what it changes": "silent",
}


@pytest.mark.parametrize("check", BROKEN)
def test_a_broken_runtime_is_caught(zoo, check):
    failed = failures(WrongSpec(how=BROKEN[check]), zoo)
    assert check in failed, failed


def test_what_a_runtime_changes_is_to_be_told(zoo):
    class Told(WrongSpec):
        lossy = "weights are rounded to 16 bits"

    assert "by its spec's `lossy`" in failures(WrongSpec(how="rounds"), zoo)["computes what dit does"]
    assert "computes what dit does" not in failures(Told(how="rounds"), zoo)


def test_the_number_of_threads_stays_as_it_is(zoo):
    threads = torch.get_num_threads()
    assert not failures(zoo.part("runtime", {"kind": "by-rows", "inner": "onednn"}), zoo)
    assert torch.get_num_threads() == threads
