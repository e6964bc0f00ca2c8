"""The training loop on accelerate: one process, several, or under `accelerate launch`.

A step's result depends on the weights, the optimiser and (seed, step) alone: batches, noise, times and dropped labels are
drawn from generators seeded by these, for the whole batch, of which each process takes its rows. So a run that is killed
and resumed ends with the weights of an unbroken one.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration

from ditzoo.assemble import Model, build
from ditzoo.errors import DataError, OutputError, TrainingError
from ditzoo.files import writable_folder, write_text
from ditzoo.interfaces import Dataset, Loss
from ditzoo.noise import derived_seed
from ditzoo.processes import on_cpu, processes
from ditzoo.specs import DatasetSpec
from ditzoo.training.checkpoint import checkpoints, load_checkpoint
from ditzoo.training.ema import EMA
from ditzoo.training.recipe import Recipe
from ditzoo.training.run import Run
from ditzoo.training.sharding import shard
from ditzoo.training.start import attach, begin
from ditzoo.training.trainee import Trainee


def train(recipe: Recipe, out: Path, *, resume: bool = False, quiet: bool = False) -> Path:
    """Follow a recipe and return the folder of the finished model (EMA weights), `out/model`; of an adapter alone, `out/lora`.

    With `resume` the run goes on from its last checkpoint, or starts if there is none; without it a folder that holds
    checkpoints is refused.
    """
    writable_folder(out)
    if checkpoints(out) and not resume:
        raise OutputError(f"'{out}' holds a run ({checkpoints(out)[-1].name}); add --resume to go on with it, or choose another --out")
    run = prepare(recipe, out)
    last = checkpoints(out)[-1:]
    if last:
        run.resume(*load_checkpoint(last[0], recipe, run.trainee, run.ema, run.optimizer.optimizer))
    if run.main:
        write_text(out / "recipe.json", recipe.model_dump_json(indent=2) + "\n")
    run.follow(quiet=quiet or not run.main)
    folder = out / ("model" if recipe.adapter is None else "lora")
    with run.averaged() as model:
        if model is not None:
            model.save_pretrained(folder) if recipe.adapter is None else model.save_lora_weights(folder)
    run.accelerator.end_training()
    return folder


def prepare(recipe: Recipe, out: Path) -> Run:
    """Open the data and build model, optimiser and average, on the device and processes that accelerate finds."""
    dataset = opened(recipe, recipe.data)
    held_out = opened(recipe, recipe.validation.data) if recipe.validation else None
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    processes()
    accelerator = Accelerator(
        cpu=on_cpu(), mixed_precision=recipe.length.mixed_precision, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=False)
    )
    share = recipe.length.batch_size // recipe.length.accumulate
    if share % accelerator.num_processes:
        raise TrainingError(
            f"batch_size={recipe.length.batch_size} in {recipe.length.accumulate} portions does not divide among "
            f"{accelerator.num_processes} processes; choose a multiple of {accelerator.num_processes * recipe.length.accumulate}"
        )
    trainee = Trainee(*made(recipe), recipe.length.segments).to(accelerator.device).train()
    if recipe.length.compile:
        for block in trainee.model.backbone.blocks:
            block.compile()
    sharded = recipe.length.shard and accelerator.num_processes > 1
    if sharded:
        shard(trainee, accelerator.device.type)
    settings = recipe.optimizer
    optimizer = accelerator.prepare_optimizer(
        torch.optim.AdamW(
            [p for p in trainee.parameters() if p.requires_grad],
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
    )
    wrapped = trainee if sharded else accelerator.prepare_model(trainee)
    ema = EMA(trainee.model, recipe.length.ema, warmup=recipe.length.ema_warmup)
    return Run(recipe, out, accelerator, wrapped, trainee, optimizer, ema, dataset, held_out)


def made(recipe: Recipe) -> tuple[Model, list[Loss]]:
    """Build the model and the extra losses, with the weights that the recipe's seed gives them, or those that it starts with."""
    model = build(recipe.model, seed=derived_seed(recipe.seed, "init"))
    if recipe.start is not None:
        begin(model, recipe.start)
    if recipe.adapter is not None:
        attach(model, recipe.adapter, derived_seed(recipe.seed, "adapter"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(recipe.seed, "losses"))
        return model, [loss.build(recipe.model) for loss in recipe.losses]


def opened(recipe: Recipe, data: DatasetSpec) -> Dataset:
    """Return a working dataset; raise `DataError` if its files hold more classes than the model has labels."""
    dataset, known = data.build(), recipe.model.prompt.item_classes
    if known is not None and len(dataset.names) > known:
        raise DataError(
            f"data '{data.kind}' has {len(dataset.names)} classes and prompt.classes is {known}; "
            f"set model.prompt.classes={len(dataset.names)}"
        )
    return dataset
