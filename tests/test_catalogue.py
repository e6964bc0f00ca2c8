"""The catalogue: 48 named DiTs whose computed figures are the published ones, and the names by which they are found."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import ditzoo_registry
import pytest

from ditzoo.cards import FIGURES_FILE, _stored, card, figures_key
from ditzoo.catalogue import Catalogue, override
from ditzoo.errors import PluginError, SpecError, UnknownNameError
from ditzoo.training.recipe import read_recipe

REGISTRY = Path(ditzoo_registry.__file__).parent
SIZES, PATCHES = ("s", "b", "l", "xl"), (2, 4, 8)
TAGS = ("", ".in-context", ".cross-attention", ".adaln")
NAMES = [f"dit-{size}-{patch}{tag}" for size, patch, tag in itertools.product(SIZES, PATCHES, TAGS)]

# "Gflops" of the DiT paper (table 1 and figure 5), which are multiply-adds, and parameters in millions
PUBLISHED_GMACS = {
    "dit-s-8": 0.36,
    "dit-s-4": 1.41,
    "dit-s-2": 6.06,
    "dit-b-8": 1.42,
    "dit-b-4": 5.56,
    "dit-b-2": 23.01,
    "dit-l-8": 5.01,
    "dit-l-4": 19.70,
    "dit-l-2": 80.71,
    "dit-xl-8": 7.39,
    "dit-xl-4": 29.05,
    "dit-xl-2": 118.64,
    "dit-xl-2-256": 118.64,
    "dit-xl-2-512": 524.6,
    "dit-xl-2.in-context": 119.4,
    "dit-xl-2.cross-attention": 137.6,
    "dit-xl-2.adaln": 118.6,
}
PUBLISHED_PARAMETERS = {"dit-s-2": 33, "dit-b-2": 130, "dit-l-2": 458, "dit-xl-2": 675, "dit-xl-2-256": 675, "dit-xl-2-512": 675}
PUBLISHED_FID = {"dit-s-2": 68.4, "dit-b-2": 43.47, "dit-l-2": 23.33, "dit-xl-2": 19.47}


def test_all_48_and_the_published_two_are_named(zoo):
    assert len(NAMES) == 48
    assert {*NAMES, "dit-xl-2-256", "dit-xl-2-512", "fashion-dit"} <= set(zoo.catalogue.paths)


@pytest.mark.parametrize("name", sorted(PUBLISHED_GMACS))
def test_figures_agree_with_the_published_ones(zoo, name):
    data = card(zoo.spec(name), REGISTRY)
    assert data["gmacs"] == pytest.approx(PUBLISHED_GMACS[name], rel=0.02)
    if name in PUBLISHED_PARAMETERS:
        assert data["parameters"] / 1e6 == pytest.approx(PUBLISHED_PARAMETERS[name], rel=0.01)


def test_cards_state_what_the_paper_states(zoo):
    for name, fid in PUBLISHED_FID.items():
        assert zoo.spec(name).card.published["FID-50K after 400K steps, no guidance"] == fid
    published = zoo.spec("dit-xl-2-256").card.published
    assert (published["FID-50K after 7M steps, no guidance"], published["FID-50K after 7M steps, guidance 1.5"]) == (9.62, 2.27)
    for name, gmacs in PUBLISHED_GMACS.items():
        stated = {key: value for key, value in zoo.spec(name).card.published.items() if key.startswith("GMACs")}
        assert list(stated.values()) == [gmacs]


def test_stored_figures_cover_the_catalogue(zoo):
    stored = _stored(REGISTRY / FIGURES_FILE)
    assert [name for name in zoo.catalogue.paths if figures_key(zoo.spec(name)) not in stored] == []


@pytest.mark.parametrize("name", ["dit-s-8", "dit-b-4.in-context", "dit-s-2.cross-attention", "dit-l-8.adaln", "dit-xl-2", "fashion-dit"])
def test_stored_figures_are_those_of_a_meta_build(zoo, name):
    from ditzoo.figures import figures

    spec = zoo.spec(name)
    assert _stored(REGISTRY / FIGURES_FILE)[figures_key(spec)] == figures(spec).model_dump()


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("DiT-XL/2", "dit-xl-2"),
        ("dit-xl/2", "dit-xl-2"),
        ("DiT-B/4.in-context", "dit-b-4.in-context"),
        ("dit-s-2.adaln-zero", "dit-s-2"),
        ("DiT-XL-2-256", "dit-xl-2-256"),
    ],
)
def test_spellings(zoo, asked, meant):
    assert zoo.spec(asked).name == meant


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("dit-xl-3", "no model 'dit-xl-3' in the catalogue; did you mean"),
        ("facebook/DiT-XL-2-256", "write 'local-dir:facebook/DiT-XL-2-256', for a hub repository 'hf-hub:facebook/DiT-XL-2-256'"),
        ("tests", "For a folder write 'local-dir:tests'"),
    ],
)
def test_unknown_names_are_told_the_right_spelling(zoo, asked, told, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    with pytest.raises(UnknownNameError, match=re.escape(told)):
        zoo.spec(asked)


def test_a_name_claimed_twice_names_both_claimants(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.toml").write_text("")
    with pytest.raises(PluginError, match="model 'same' is claimed by second and by first"):
        Catalogue().joined([tmp_path / "a"], "first").joined([tmp_path / "b"], "second")


def test_an_alias_of_two_models_is_refused_with_both(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text('aliases = ["Both"]')
    with pytest.raises(UnknownNameError, match="'both' is an alias of one and two"):
        Catalogue().joined([tmp_path], "x").find("both")


@pytest.mark.parametrize(
    ("settings", "result"),
    [
        (["a.x=3"], {"a": {"kind": "k", "x": 3, "y": 2}}),
        (["a.kind=other"], {"a": {"kind": "other"}}),
        (["a=other", "a.z=true"], {"a": {"kind": "other", "z": True}}),
        (["a.kind=k"], {"a": {"kind": "k", "x": 1, "y": 2}}),
        (["b.c=[1, 2]"], {"a": {"kind": "k", "x": 1, "y": 2}, "b": {"c": [1, 2]}}),
        (["a.x=two words"], {"a": {"kind": "k", "x": "two words", "y": 2}}),
    ],
)
def test_settings_lay_over(settings, result):
    data = {"a": {"kind": "k", "x": 1, "y": 2}}
    assert override(data, settings) == result
    assert data == {"a": {"kind": "k", "x": 1, "y": 2}}


def test_settings_reach_into_lists():
    data = {"losses": [{"kind": "flops", "target": 0.5}, {"kind": "other"}], "size": [28, 28], "none": []}
    found = override(data, ["losses.0.target=0.35", "losses.1.kind=exits", "size.1=40"])
    assert found == {"losses": [{"kind": "flops", "target": 0.35}, {"kind": "exits"}], "size": [28, 40], "none": []}
    assert data["losses"][0]["target"] == 0.5
    for setting, known in (("losses.2.x=1", "entries 0 to 1"), ("losses.target=1", "entries 0 to 1"), ("none.0=1", "no entries")):
        with pytest.raises(SpecError, match=rf"--set {setting}: there is a list with {known}, and '\w+' is none of them"):
            override(data, [setting])


@pytest.mark.parametrize("setting", ["a", "=3", "a.kind.deep=1"])
def test_malformed_settings_are_refused(setting):
    with pytest.raises(SpecError, match="--set"):
        override({"a": {"kind": "k"}}, [setting])


def test_every_shipped_recipe_reads(zoo):
    assert zoo.catalogue.recipes
    for name in zoo.catalogue.recipes:
        assert read_recipe(name, zoo).name == name


def test_a_spec_survives_being_written_and_read(zoo):
    for name in ("dit-xl-2-512", "fashion-dit", "dit-s-2.in-context"):
        spec = zoo.spec(name)
        assert zoo.model(spec.model_dump(mode="json")) == spec
