"""Commands that look and make nothing: list, search, show, check, matrix, plugins, env. None needs weights."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from ditzoo.cli.options import json_option, open_zoo, print_columns, print_json, set_option
from ditzoo.errors import UnknownNameError
from ditzoo.files import cache_folder
from ditzoo.machine import instructions, processor
from ditzoo.zoo import Zoo, kind_of

PACKAGES = ("ditzoo", "torch", "diffusers", "accelerate", "safetensors", "huggingface-hub", "transformers", "pydantic", "pluggy", "einops")
VARIABLES = ("DITZOO_PLUGINS", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def add_to(group: click.Group) -> None:
    """Add these commands to the command line."""
    for command in (list_, search, show, check, matrix, plugins, env):
        group.add_command(command)


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--with-weights", is_flag=True, help="Only models whose trained weights are known.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table with figures, as in the README.")
@json_option
def list_(pattern: str, with_weights: bool, markdown: bool, as_json: bool) -> None:
    """List the models whose name matches PATTERN (wildcards: * ? [])."""
    zoo = open_zoo()
    names = zoo.catalogue.names(pattern)
    if not names and pattern != "*":
        raise UnknownNameError(f"no model matches '{pattern}' ('ditzoo list' shows all {len(zoo.catalogue.paths)})")
    if markdown:
        from ditzoo.cards import markdown_table

        click.echo(markdown_table((zoo.spec(name), zoo.catalogue.paths[name].parent) for name in names))
        return
    _print_names(zoo, names, with_weights, as_json)


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--hub/--no-hub", default=True, show_default=True, help="Ask the hub too for repositories with the tag 'ditzoo'.")
@json_option
def search(words: tuple[str, ...], hub: bool, as_json: bool) -> None:
    """Search names, aliases and cards for all of WORDS, and the hub where it can be reached."""
    from ditzoo.errors import HubError
    from ditzoo.hub import find_models

    zoo = open_zoo()
    names, published = zoo.catalogue.search(words), []
    if hub:
        try:
            published = find_models(words)
        except HubError as error:
            click.echo(f"note: the catalogue alone was searched: {error}", err=True)
    if not names and not published:
        raise UnknownNameError(f"nothing in the catalogue speaks of '{' '.join(words)}' ('ditzoo list' shows all models)")
    _print_names(zoo, names, False, as_json, published)


def _print_names(zoo: Zoo, names: list[str], with_weights: bool, as_json: bool, published: Sequence[str] = ()) -> None:
    rows = [{"name": name, "weights": "hub", "summary": "published with the tag 'ditzoo'"} for name in published]
    for name in names:
        data = zoo.catalogue.read(zoo.catalogue.paths[name])
        weights = data.get("weights", {})
        source = "hub" if "repo" in weights else "shipped" if weights else "-"
        if weights or not with_weights:
            rows.append({"name": name, "weights": source, "summary": data.get("card", {}).get("summary", "")})
    if as_json:
        print_json(rows)
    else:
        print_columns([("NAME", "WEIGHTS", "SUMMARY"), *((row["name"], row["weights"], row["summary"]) for row in rows)])


@click.command()
@click.argument("name")
@set_option
@json_option
def show(name: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Show a model's card: parts, parameters, GMACs, memory, published and measured figures."""
    from ditzoo.cards import card, render
    from ditzoo.sources import resolve

    found = resolve(name, open_zoo(), settings)
    data = card(found.spec, found.folder) | ({"notes": list(found.notes)} if found.notes else {})
    runtime = found.spec.runtime or found.zoo.default_runtime()
    data |= {"runtime": runtime and runtime.kind}
    print_json(data) if as_json else click.echo(render(data))


@click.command()
@click.argument("names", nargs=-1, required=True)
@set_option
@json_option
def check(names: tuple[str, ...], settings: tuple[str, ...], as_json: bool) -> None:
    """Check that the parts of models fit together, or that all that a plugin registers keeps the promises of its slots.

    NAMES are catalogue names, local-dir:PATH, SPEC.toml, or names of installed plugins, which 'ditzoo plugins' lists.
    """
    from ditzoo.errors import DitzooError, SpecError
    from ditzoo.sources import resolve

    zoo = open_zoo()
    report: list[dict[str, Any]] = []
    for name in names:
        if name in zoo.plugins:
            report.append(_conformance(zoo, name, quiet=as_json))
            continue
        try:
            spec = resolve(name, zoo, settings).spec
            parts = {slot: part.kind for slot, part in spec.parts.items()}
            report.append({"name": name, "ok": True, "parts": parts, "problems": []})
        except DitzooError as error:
            report.append({"name": name, "ok": False, "problems": str(error).splitlines()})
    if as_json:
        print_json(report)
    else:
        for row in report:
            if row["ok"] and "parts" in row:
                click.echo(f"{row['name']}: ok ({', '.join(f'{slot} {kind}' for slot, kind in row['parts'].items())})")
    problems = [problem for row in report for problem in row["problems"]]
    if problems:
        raise SpecError("\n".join(problems))


def _conformance(zoo: Zoo, plugin: str, *, quiet: bool) -> dict[str, Any]:
    """Run the conformance checks of a plugin and print each as it ends."""
    from ditzoo.testing import check_package

    findings = []
    for one in check_package(zoo, plugin):
        findings.append({"part": one.part, "check": one.check, "ok": one.ok, "told": one.told})
        if not quiet:
            click.echo(f"{'ok  ' if one.ok else 'FAIL'}  {one.part}: {one.check}{f' ({one.told})' if one.told else ''}")
    wrong = [f"{one['part']}: {one['check']}: {one['told']}" for one in findings if not one["ok"]]
    return {"name": plugin, "ok": not wrong, "checks": findings, "problems": wrong}


@click.command()
@click.option("--run", is_flag=True, help="Draw a tiny picture by every pair that is not refused; code 1 if one fails.")
@click.option("--markdown", is_flag=True, help="Print Markdown tables, as in the documentation.")
@json_option
def matrix(run: bool, markdown: bool, as_json: bool) -> None:
    """Tell which sampler runs on which schedule and backbone, of everything installed: ok, adapted (how) or refused (why)."""
    from ditzoo.matrix import as_data, table
    from ditzoo.matrix import matrix as compute

    cells = compute(open_zoo(), run=run)
    if as_json:
        print_json(list(as_data(cells)))
    elif markdown:
        click.echo("\n\n".join(table(cells, backbone) for backbone in dict.fromkeys(cell.backbone for cell in cells)))
    else:
        print_columns(
            [("BACKBONE", "SCHEDULE", "SAMPLER", "VERDICT", "")]
            + [(cell.backbone, cell.schedule, cell.sampler, cell.verdict, " ".join(filter(None, (cell.why, cell.ran)))) for cell in cells]
        )
    if any(cell.ran.startswith("failed") for cell in cells):
        raise SystemExit(1)


@click.command()
@json_option
def plugins(as_json: bool) -> None:
    """List the installed plugins, what each offers, and those that were left out and why."""
    zoo = open_zoo()
    rows = []
    for plugin in zoo.plugins.values():
        parts: dict[str, list[str]] = {}
        for part in plugin.parts:
            parts.setdefault(part.slot, []).append(kind_of(part))
        models = sum(len(list(folder.glob("*.toml"))) for folder in plugin.folders)
        layouts = [layout.name for layout in plugin.layouts]
        components = sorted(word for component in plugin.components for word in component.classes)
        commands = [command.name for command in plugin.commands]
        told = {"layouts": layouts, "components": components, "commands": commands, "models": models}
        rows.append({"name": plugin.name, "origin": plugin.origin, "parts": parts, **told})
    if as_json:
        print_json({"plugins": rows, "failures": zoo.failures})
        return
    table = [("PLUGIN", "FROM", "OFFERS")]
    for row in rows:
        offers = [f"{slot}: {', '.join(kinds)}" for slot, kinds in row["parts"].items()]  # type: ignore[attr-defined]
        offers += [f"{what}: {', '.join(row[what])}" for what in ("layouts", "components", "commands") if row[what]]  # type: ignore[arg-type]
        table.append((str(row["name"]), str(row["origin"]), "; ".join(offers + ([f"{row['models']} models"] if row["models"] else []))))
    print_columns(table)


@click.command()
@json_option
def env(as_json: bool) -> None:
    """Print versions and settings for a bug report."""
    zoo = open_zoo()
    data: dict[str, Any] = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "processor": " ".join([processor(), *instructions()]),
        "runtime": getattr(zoo.default_runtime(), "kind", "none"),
        "cache": str(cache_folder()),
        "packages": {name: _version(name) for name in PACKAGES},
        "plugins": {plugin.name: plugin.origin for plugin in zoo.plugins.values()},
        "failures": zoo.failures,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    if as_json:
        print_json(data)
        return
    flat = [(name, str(data[name])) for name in ("python", "platform", "cpus", "processor", "runtime", "cache")]
    print_columns([*flat, *data["packages"].items(), *((f"plugin {n}", o) for n, o in data["plugins"].items()), *data["variables"].items()])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
