"""Commands that make something: sample, train, latents. Torch is imported once everything that can be checked without it has been."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ditzoo.cli.options import (
    Batch,
    json_option,
    lock_option,
    open_model,
    open_zoo,
    print_columns,
    print_json,
    runtime_option,
    set_option,
    with_runtime,
)
from ditzoo.errors import SamplingError
from ditzoo.launched import speaks

BATCH = 64  # with --num, where none is named
ALONE = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4", ".webm", ".npz", ".tar")  # files, as people would name them

if TYPE_CHECKING:
    from ditzoo.model_spec import ModelSpec


def add_to(group: click.Group) -> None:
    """Add these commands to the command line."""
    for command in (sample, train, latents):
        group.add_command(command)


def is_a_folder(context: click.Context, option: click.Parameter, out: Path | None) -> Path | None:
    """Refuse a folder for samples that is named like a single one."""
    if out is not None and out.suffix.lower() in ALONE and not out.is_dir():
        raise SamplingError(
            f"--out is a folder, of samples, their grid and a sidecar, and '{out}' is named like a file; say --out {out.with_suffix('')}"
        )
    return out


@click.command()
@click.argument("name")
@click.option("-l", "--label", "labels", multiple=True, help="Class to draw, by name or number. Repeatable.")
@click.option("-p", "--prompt", "prompts", multiple=True, help="Text to draw, for models that read text. Repeatable.")
@click.option("--prompt-2", help="Text for the second text encoder, where it is not the prompt.")
@click.option("--prompt-3", help="Text for the third text encoder, where it is not the prompt.")
@click.option("--max-sequence-length", type=int, help="Tokens of a text that are read.")
@click.option("-n", "--num-images", type=int, help="How many pictures in all.")
@click.option(
    "--num", "--num-samples", "num", type=click.IntRange(1), help="How many pictures in all, in shards, by any number of processes."
)
@click.option("--shard-size", type=click.IntRange(1), help="Pictures in a shard of --num. Default: 1000.")
@click.option("--shards", type=click.Choice(["npz", "png", "webdataset"]), help="Their form. Default: npz.")
@click.option("--num-images-per-prompt", type=int, default=1, show_default=True, help="How many of each label or prompt.")
@click.option("--steps", type=int, help="Steps of the sampler.")
@click.option("-g", "--guidance-scale", type=float, help="Classifier-free guidance; 1 is none.")
@click.option("--guidance-rescale", type=float, help="How far guidance is brought back to the unguided deviation, 0 to 1.")
@click.option("--negative-label", "negative_labels", multiple=True, help="Class to lead away from; one for all, or one a picture.")
@click.option("--negative-prompt", "negative_prompts", multiple=True, help="Text to lead away from; one for all, or one a picture.")
@click.option("--negative-prompt-2", help="Text to lead the second text encoder away from.")
@click.option("--negative-prompt-3", help="Text to lead the third text encoder away from.")
@click.option("--lora", "loras", multiple=True, metavar="SOURCE[=SCALE]", help="LoRA to add: a file, folder or OWNER/REPO. Repeatable.")
@click.option("--height", type=int, help="Height in pixels.")
@click.option("--width", type=int, help="Width in pixels.")
@click.option("--num-frames", type=int, help="Frames of a clip, of video models.")
@click.option(
    "--window", type=int, help="Frames drawn at once, for clips longer than those of training: each window goes on from the last."
)
@click.option("--overlap", type=int, help="Frames that a window knows of the one before. Default: a quarter of it.")
@click.option("--fps", type=float, help="Frames a second of clips as they are written.")
@click.option("--given", type=click.Path(path_type=Path), help="Picture, GIF, video or folder of frames that clips are drawn around.")
@click.option("--at", help="Where they lie: first, last, ends, or their places, as 0,5,-1. Default: first.")
@click.option("--format", type=click.Choice(["gif", "mp4", "png"]), help="How clips are written; png is a folder of frames. Default: gif.")
@click.option("--seed", type=int, default=0, show_default=True, help="Picture i depends on (seed, i) alone.")
@click.option(
    "--batch-size", type=Batch(), help="Pictures that go through the network at once; with --num auto: what is measured to be fast."
)
@click.option("--device", help="cpu, cuda, cuda:1, mps. Default: cuda if there is one, else cpu.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@click.option("--force", is_flag=True, help="Go on where memory is estimated not to suffice for a size.")
@click.option("--random-weights", is_flag=True, help="Draw from fresh weights: noise, but the whole machine runs.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    callback=is_a_folder,
    help="Folder for samples, grid and sidecar. Default: samples/NAME.",
)
@runtime_option
@lock_option
@set_option
@json_option
def sample(name: str, settings: tuple[str, ...], as_json: bool, out: Path | None, lock: Path | None, **request: Any) -> None:
    """Draw pictures from NAME: a catalogue name, hf-hub:OWNER/REPO[@REVISION], local-dir:PATH, local-file:PATH or SPEC.toml.

    Writes a PNG each, a labelled grid, and samples.json, whose command makes the same pictures again. With --num it writes shards
    instead, under 'accelerate launch --multi_gpu -m ditzoo sample ...' or torchrun by several processes, and goes on where it was cut off.
    """
    from ditzoo.errors import SamplingError
    from ditzoo.files import writable_folder
    from ditzoo.request import adjusted, requested, steered

    shards = _shards(request)
    found = open_model(name, with_runtime(settings, request["runtime"]), lock)
    if not request["random_weights"]:
        found = found.opened()
        found.weights()
    asked = ("guidance_scale", "guidance_rescale", "height", "width", "num_frames", "fps", "steps")
    spec = adjusted(found.spec, **{name: request[name] for name in asked})
    if request["format"] is not None and len(spec.pixel_size()) < 3:
        raise SamplingError(f"--format {request['format']} is of clips, and '{spec.name}' draws pictures, written as PNG; leave it out")
    items = requested(
        spec,
        class_labels=list(request["labels"]) or None,
        prompt=list(request["prompts"]) or None,
        num_images=request["num_images"],
        each=request["num_images_per_prompt"],
        beside={name: request[name] for name in ("prompt_2", "prompt_3", "max_sequence_length")},
    )
    away = {"negative_class_labels": list(request["negative_labels"]) or None, "negative_prompt": list(request["negative_prompts"]) or None}
    steered(
        spec,
        len(items),
        **away,
        beside={name: request[f"negative_{name}"] for name in ("prompt_2", "prompt_3")},
        shared={"max_sequence_length": request["max_sequence_length"]},
    )
    windowed(spec, request["window"], request["overlap"], shards=shards is not None)
    known = given_by(spec, request["given"], request["at"], window=request["window"])
    out = writable_folder(out or Path("samples") / spec.name)
    if shards is not None:
        from ditzoo.many import Many

        same = {word: request[word] for word in ("seed", "dtype", "device", "random_weights")}
        more = {word: value for word, value in away.items() if value is not None}
        index = Many(replace(found, spec=spec), items, more=more, **same, **shards).draw(out)
        if index:  # under a launcher the first process speaks for all
            print_json(index) if as_json else click.echo(f"{index['count']} samples in {len(index['shards'])} shards in {out}")
        return

    from ditzoo.drawing import draw

    report = draw(replace(found, spec=spec), items, out, settings=settings, request=request, known=known)
    if report:  # the first process speaks for all here too
        print_json(report) if as_json else click.echo(f"{len(items)} samples and {report['grid']}")


def windowed(spec: ModelSpec, window: int | None, overlap: int | None, *, shards: bool) -> None:
    """Refuse now windows that cannot be drawn."""
    from ditzoo.windows import stretches

    if window is None:
        if overlap is not None:
            raise SamplingError(f"--overlap {overlap} is what windows share, and there is none; add --window, or leave it out")
        return
    if shards:
        raise SamplingError("--window with --num: clips in shards are drawn whole; leave one of them out")
    stretches(spec, window, overlap)


def given_by(spec: ModelSpec, path: Path | None, at: str | None, *, window: int | None = None) -> dict[str, Any]:
    """Return the frames of a file and where they lie, as `sample` takes them; refuse now what cannot be given."""
    from ditzoo.clips import read_frames
    from ditzoo.placing import placed
    from ditzoo.request import adjusted

    if path is None:
        if at is not None:
            raise SamplingError(f"--at {at} says where given frames lie, and none are given; add --given FILE, or leave it out")
        return {}
    frames = read_frames(path)
    within = spec if window is None else adjusted(spec, num_frames=window)
    placed(within, len(frames), frames[0].size[::-1] if frames else (), at or "first")
    return {"given": frames, "at": at or "first"}


def _shards(request: dict[str, Any]) -> dict[str, Any] | None:
    """Take what is of shards out of a request and return it, None where none are asked for; refuse what goes with one of the two alone."""
    count, shard, form = (request.pop(word) for word in ("num", "shard_size", "shards"))
    size = request["batch_size"]
    if count is None:
        for flag, told in (("--batch-size auto", size == "auto"), ("--shard-size", shard is not None), ("--shards", form is not None)):
            if told:
                raise SamplingError(f"{flag} is for many samples in shards; say how many with --num")
        return None
    if request["num_images"] is not None:
        raise SamplingError(f"--num {count} and --num-images {request['num_images']}: give one of them, --num for shards")
    if size is not None and size != "auto" and size < 1:
        raise SamplingError(f"batch_size is {size}; at least 1 is needed, or auto")
    return {"count": count, "shard": shard or 1000, "form": form or "npz", "batch": None if size == "auto" else size or BATCH}


@click.command()
@click.argument("recipe")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder of the run. Default: runs/NAME.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder, or start if there is none.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@click.option("--dry-run", is_flag=True, help="Make a few steps, tell the time and memory that the run would take, and leave nothing.")
@set_option
@json_option
def train(recipe: str, out: Path | None, resume: bool, quiet: bool, dry_run: bool, settings: tuple[str, ...], as_json: bool) -> None:
    """Train by RECIPE: a TOML file, or the name of a recipe that ships.

    Runs in one process, or in several under 'accelerate launch --multi_gpu -m ditzoo train RECIPE'.
    """
    from ditzoo.training.recipe import read_recipe

    declared = read_recipe(recipe, open_zoo(), settings)
    if dry_run:
        from ditzoo.training.rehearsal import rehearse

        told = rehearse(declared)
        if speaks():
            print_json(told) if as_json else print_columns([(name.replace("_", " "), str(value)) for name, value in told.items()])
        return

    from ditzoo.training.loop import train as follow

    folder = follow(declared, out or Path("runs") / declared.name, resume=resume, quiet=quiet)
    if not speaks():
        return
    if as_json:
        print_json(
            {"model" if declared.adapter is None else "lora": f"local-dir:{folder}", "recipe": declared.name, "digest": declared.digest()}
        )
    else:
        click.echo(f"local-dir:{folder}")
        base = f"local-dir:{folder}" if declared.adapter is None or declared.start is None else f"{declared.start.model} --lora {folder}"
        click.echo(f"next: ditzoo sample {base}", file=sys.stderr)


@click.command()
@click.argument("recipe")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for the shards.")
@click.option("--flip", is_flag=True, help="Code every picture mirrored too.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@set_option
@json_option
def latents(recipe: str, out: Path, flip: bool, dtype: str, device: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Code the data of RECIPE once with its model's codec, to train from latents. Goes on where it was interrupted.

    Under 'accelerate launch --multi_gpu -m ditzoo latents ...' the processes share the shards.
    """
    from ditzoo.training.recipe import read_recipe

    declared = read_recipe(recipe, open_zoo(), settings)

    from ditzoo.training.latents import write_latents

    meta = write_latents(declared, out, flip=flip, dtype=dtype, device=device)
    if not speaks():
        return
    if as_json:
        print_json({"folder": str(out), "count": meta["count"], "shards": len(meta["shards"]), "flip": flip})
    else:
        click.echo(f"{meta['count']} latents in {len(meta['shards'])} shards in {out}")
        click.echo(f"next: ditzoo train {recipe} --set data.kind=latents --set data.folder={out}", err=True)
